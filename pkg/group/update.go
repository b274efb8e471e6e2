package group

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// Update tells what a running process makes of a changed document: which volumes there are, how large
// they are and which capturer serves them, which objects there are and how they are mapped, the retention, the limits of the mirrors and the archive follow it at once. Settings that are read at a start keep
// the value of g; later names those that differ. What can't be followed by something that runs, such as
// another UID for the same volume, is a *ProblemsError: then g stays in force as a whole.
func (g *Group) Update(next *Group) (merged *Group, later []string, err error) {
	v := validator{bad: make(map[string]bool)}
	if next.Metadata != g.Metadata {
		v.fail("metadata.name", "is %q here: %s", g.Metadata.Name, restart)
	}
	if next.Spec.Sites != g.Spec.Sites {
		v.fail("spec.sites", "differs from what this process started with: %s", restart)
	}
	for i, volume := range next.Spec.Volumes {
		if old, ok := g.Volume(volume.Name); ok {
			v.follow(fmt.Sprintf("spec.volumes[%d]", i), old, volume)
		}
	}
	if len(v.problems) > 0 {
		return nil, nil, &ProblemsError{v.problems}
	}
	merged = new(Group)
	*merged = *g
	merged.Spec.Volumes = slices.Clone(next.Spec.Volumes)
	merged.Spec.Recovery = next.Spec.Recovery
	merged.Spec.Recovery.Directory = g.Spec.Recovery.Directory
	merged.Spec.Recovery.Objects.Apply = g.Spec.Recovery.Objects.Apply
	merged.Spec.Objects = next.Spec.Objects
	is := maps.Collect(fieldsOf(reflect.ValueOf(next.Spec)))
	for name, field := range fieldsOf(reflect.ValueOf(merged.Spec)) {
		later = differing("spec."+name, field, is[name], later)
	}
	return merged, later, nil
}

const restart = "it can't change while the process runs; restart it, or set the field back"

// follow checks what becomes of a volume that was there before.
func (v *validator) follow(path string, old, now Volume) {
	if now.UID != old.UID {
		v.fail(path+".uid", "is %q here: another volume can't take the name of one that is protected; "+
			"remove the volume first, or give the new one a name of its own", old.UID)
	}
	if now.Replica != old.Replica {
		v.fail(path+".replica.path", "is %q here: %s", old.Replica.Path, restart)
	}
	if now.Size != 0 && now.Size < old.Size {
		v.fail(path+".size", "a volume grows and doesn't shrink; it has %s", old.Size)
	}
	if now.Capturer != old.Capturer {
		return // it moves: where it is and how it is served is the new capturer's matter
	}
	if now.Path != old.Path {
		v.fail(path+".path", "is %q here: %s", old.Path, restart)
	}
	if now.Listen != old.Listen || now.TLS != old.TLS {
		v.fail(path+".listen", "differs from what this process started with: %s", restart)
	}
}

// differing appends the paths of the fields below path in which a and b differ.
func differing(path string, a, b reflect.Value, to []string) []string {
	if a.Kind() != reflect.Struct {
		if !reflect.DeepEqual(a.Interface(), b.Interface()) {
			to = append(to, path)
		}
		return to
	}
	others := maps.Collect(fieldsOf(b))
	for name, field := range fieldsOf(a) {
		to = differing(path+"."+name, field, others[name], to)
	}
	return to
}
