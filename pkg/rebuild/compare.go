package rebuild

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// covers tells whether everything that want says is so in have, which may say more: defaults, a status, what others own.
func covers(want, have any) bool {
	found := false
	differences("", want, have, func(string, any, any) bool {
		found = true
		return false
	})
	return !found
}

// differences calls yield with each field of want that is something else in have, until that returns false.
func differences(path string, want, have any, yield func(path string, want, have any) bool) bool {
	if void(want) && void(have) {
		return true
	}
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok && have != nil {
			return yield(path, want, have)
		}
		for _, k := range sortedKeys(w) {
			if !differences(below(path, k), w[k], h[k], yield) {
				return false
			}
		}
		return true
	case []any:
		h, ok := have.([]any)
		if !ok || len(w) != len(h) {
			return yield(path, want, have)
		}
		for i := range w {
			if !differences(fmt.Sprintf("%s[%d]", path, i), w[i], h[i], yield) {
				return false
			}
		}
		return true
	}
	if scalar(want) != scalar(have) {
		return yield(path, want, have)
	}
	return true
}

// void tells whether a value says nothing: the API server leaves it out.
func void(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case map[string]any:
		for _, child := range v {
			if !void(child) {
				return false
			}
		}
		return true
	case []any:
		return len(v) == 0
	}
	return false
}

// scalar writes a value so that equal ones are equal, whichever type holds a number.
func scalar(v any) string {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%v", v)
	}
	return string(body)
}

func below(path, key string) string {
	if strings.ContainsAny(key, "./") {
		return path + "[" + key + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// equalEnough tells whether somebody else's object of a shared kind serves as the wanted one would.
func equalEnough(kindName string, want, have map[string]any) bool {
	switch kindName {
	case "Namespace":
		return true
	case "CustomResourceDefinition":
		return servesAll(want, have)
	}
	bare := make(map[string]any, len(want))
	for k, v := range want {
		if k != "metadata" {
			bare[k] = v
		}
	}
	return covers(bare, have)
}

// servesAll tells whether a definition has the same names and scope as the wanted one and serves all of its versions.
func servesAll(want, have map[string]any) bool {
	w, _ := want["spec"].(map[string]any)
	h, _ := have["spec"].(map[string]any)
	for _, field := range []string{"group", "names", "scope"} {
		if !covers(w[field], h[field]) {
			return false
		}
	}
	served := make(map[any]bool)
	versions, _ := h["versions"].([]any)
	for _, v := range versions {
		version, _ := v.(map[string]any)
		served[version["name"]] = version["served"] == true
	}
	versions, _ = w["versions"].([]any)
	for _, v := range versions {
		version, _ := v.(map[string]any)
		if version["served"] == true && !served[version["name"]] {
			return false
		}
	}
	return true
}
