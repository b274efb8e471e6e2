package transform

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// kind is an API group and a kind in it, whatever the version.
type kind struct{ group, kind string }

func kindOf(obj *unstructured.Unstructured) kind {
	group, _, ok := strings.Cut(obj.GetAPIVersion(), "/")
	if !ok {
		group = ""
	}
	return kind{group, obj.GetKind()}
}

// visit calls f with every object that path leads to below node. path is field names separated by dots; "*" stands for every element
// of a list, "" for node itself. What isn't there, or isn't what path takes it for, is left alone.
func visit(node any, path string, f func(map[string]any)) {
	if path == "" {
		if m, ok := node.(map[string]any); ok {
			f(m)
		}
		return
	}
	name, rest, _ := strings.Cut(path, ".")
	switch n := node.(type) {
	case map[string]any:
		if next, ok := n[name]; ok && name != "*" {
			visit(next, rest, f)
		}
	case []any:
		if name == "*" {
			for _, e := range n {
				visit(e, rest, f)
			}
		}
	}
}

// replace maps the string that path leads to, or each string of the list where path ends with "*".
func replace(node any, path string, to func(string) string) {
	if parent, ok := strings.CutSuffix(path, ".*"); ok {
		above, field := split(parent)
		visit(node, above, func(m map[string]any) { replaceAll(m[field], to) })
		return
	}
	above, field := split(path)
	visit(node, above, func(m map[string]any) {
		if s, ok := m[field].(string); ok && s != "" {
			m[field] = to(s)
		}
	})
}

func replaceAll(list any, to func(string) string) {
	l, _ := list.([]any)
	for i, e := range l {
		if s, ok := e.(string); ok {
			l[i] = to(s)
		}
	}
}

func split(path string) (above, field string) {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// remove takes the fields away from every object that path leads to.
func remove(node any, path string, fields ...string) {
	visit(node, path, func(m map[string]any) {
		for _, f := range fields {
			delete(m, f)
		}
	})
}

// without takes the entries away whose key gone tells from the map of the given name in m, and the map itself where none is left.
func without(m map[string]any, name string, gone func(key string) bool) {
	entries, ok := m[name].(map[string]any)
	if !ok {
		return
	}
	before := len(entries)
	for key := range entries {
		if gone(key) {
			delete(entries, key)
		}
	}
	if before > 0 && len(entries) == 0 {
		delete(m, name)
	}
}

// filter keeps the elements of the list of the given name in m that keep tells, and the list itself only where one is left.
func filter(m map[string]any, name string, keep func(any) bool) {
	list, ok := m[name].([]any)
	if !ok {
		return
	}
	kept := make([]any, 0, len(list))
	for _, e := range list {
		if keep(e) {
			kept = append(kept, e)
		}
	}
	switch {
	case len(kept) == len(list):
	case len(kept) == 0:
		delete(m, name)
	default:
		m[name] = kept
	}
}

// podTemplates is where the kinds of Kubernetes have the template of a Pod; a Pod is one itself.
var podTemplates = map[kind]string{
	{"", "Pod"}:                   "",
	{"", "PodTemplate"}:           "template",
	{"", "ReplicationController"}: "spec.template",
	{"apps", "Deployment"}:        "spec.template",
	{"apps", "ReplicaSet"}:        "spec.template",
	{"apps", "StatefulSet"}:       "spec.template",
	{"apps", "DaemonSet"}:         "spec.template",
	{"batch", "Job"}:              "spec.template",
	{"batch", "CronJob"}:          "spec.jobTemplate.spec.template",
}

// podSpecs calls f with the specs of the Pods that obj is or makes.
func podSpecs(obj *unstructured.Unstructured, f func(spec map[string]any)) {
	if path, ok := podTemplates[kindOf(obj)]; ok {
		visit(obj.Object, join(path, "spec"), f)
	}
}

// containers calls f with every container of a Pod's spec.
func containers(spec map[string]any, f func(map[string]any)) {
	for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
		visit(spec, list+".*", f)
	}
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}
