package transform

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// dnsNames maps DNS names: single ones, and all those below a domain.
type dnsNames map[string]string

// name maps one name, which may begin with "*.". A rule for the name itself goes before one for the domains it is in, of which the longest counts.
func (n dnsNames) name(name string) string {
	lower := strings.ToLower(name)
	if to, ok := n[lower]; ok {
		return to
	}
	for rest := lower; ; {
		_, domain, ok := strings.Cut(rest, ".")
		if !ok {
			return name
		}
		if to, ok := n["*."+domain]; ok {
			return name[:len(name)-len(domain)] + strings.TrimPrefix(to, "*.")
		}
		rest = domain
	}
}

// text maps every name that stands in text as a whole, with or without the dot of an absolute name behind it.
func (n dnsNames) text(text string) string {
	var out strings.Builder
	done := 0 // of text, in out
	for i := 0; i < len(text); {
		if !inName(text[i]) {
			i++
			continue
		}
		end := i
		for end < len(text) && inName(text[end]) {
			end++
		}
		found := strings.TrimRight(text[i:end], ".")
		if to := n.name(found); to != found {
			out.WriteString(text[done:i])
			out.WriteString(to)
			done = i + len(found)
		}
		i = end
	}
	if done == 0 {
		return text
	}
	out.WriteString(text[done:])
	return out.String()
}

func inName(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
}

// webhookURLs is where webhooks are reached by a URL instead of a Service.
var webhookURLs = map[kind]string{
	{"admissionregistration.k8s.io", "ValidatingWebhookConfiguration"}: "webhooks.*.clientConfig.url",
	{"admissionregistration.k8s.io", "MutatingWebhookConfiguration"}:   "webhooks.*.clientConfig.url",
	{"apiextensions.k8s.io", "CustomResourceDefinition"}:               "spec.conversion.webhook.clientConfig.url",
}

// dnsNames maps DNS names where applications are told them.
func (t *Transformer) dnsNames(obj *unstructured.Unstructured) {
	if len(t.rules.Names) == 0 {
		return
	}
	k, o := kindOf(obj), obj.Object
	switch k {
	case kind{"", "Service"}:
		replace(o, "spec.externalName", t.names.name)
	case kind{"", "ConfigMap"}:
		visit(o, "data", t.texts)
	case kind{"", "Secret"}:
		visit(o, "stringData", t.texts)
		visit(o, "data", t.encoded)
	}
	if path, ok := webhookURLs[k]; ok {
		replace(o, path, t.names.text)
	}
	podSpecs(obj, func(spec map[string]any) {
		containers(spec, func(c map[string]any) {
			replace(c, "env.*.value", t.names.text)
			replace(c, "command.*", t.names.text)
			replace(c, "args.*", t.names.text)
		})
	})
}

func (t *Transformer) texts(m map[string]any) {
	for key, value := range m {
		if s, ok := value.(string); ok {
			m[key] = t.names.text(s)
		}
	}
}

// encoded maps names in base64; what is no text is left alone.
func (t *Transformer) encoded(m map[string]any) {
	for key, value := range m {
		s, _ := value.(string)
		data, err := base64.StdEncoding.DecodeString(s)
		if err != nil || !utf8.Valid(data) {
			continue
		}
		if text := t.names.text(string(data)); text != string(data) {
			m[key] = base64.StdEncoding.EncodeToString([]byte(text))
		}
	}
}
