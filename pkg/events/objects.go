package events

import "cmp"

func (o *Object) check() error {
	switch {
	case len(o.Raw) > MaxRaw:
		return malformed("object has %d bytes, more than %d: split it", len(o.Raw), MaxRaw)
	case o.Verb == Upsert && len(o.Raw) == 0:
		return malformed("object is empty")
	case o.Verb == Delete && len(o.Raw) != 0:
		return malformed("deletion carries %d bytes", len(o.Raw))
	}
	return cmp.Or(
		within("verb", o.Verb, Upsert, Delete),
		optional("group", o.Key.Group),
		name("version", o.Key.Version),
		name("resource", o.Key.Resource),
		optional("namespace", o.Key.Namespace),
		name("name", o.Key.Name),
		optional("uid", o.UID),
		optional("revision", o.Revision),
		partOf(o.Part, o.Parts),
	)
}

func (o *Object) size() int {
	k := o.Key
	return len(k.Group) + len(k.Version) + len(k.Resource) + len(k.Namespace) + len(k.Name) +
		len(o.UID) + len(o.Revision) + len(o.Raw) + 48
}

func (o *Object) encode(w *writer) {
	w.array(7)
	w.uint(uint64(o.Verb))
	w.array(5)
	w.str(o.Key.Group)
	w.str(o.Key.Version)
	w.str(o.Key.Resource)
	w.str(o.Key.Namespace)
	w.str(o.Key.Name)
	w.str(o.UID)
	w.str(o.Revision)
	w.uint(uint64(o.Part))
	w.uint(uint64(o.Parts))
	w.bin(o.Raw)
}

func (o *Object) decode(r *reader) {
	r.array("object", 7)
	o.Verb = Verb(r.uint8("verb"))
	r.array("key", 5)
	o.Key = ObjectKey{
		Group: r.name("group"), Version: r.name("version"), Resource: r.name("resource"),
		Namespace: r.name("namespace"), Name: r.name("name"),
	}
	o.UID = r.name("uid")
	o.Revision = r.name("revision")
	o.Part = r.uint32("part")
	o.Parts = r.uint32("parts")
	o.Raw = r.bin("object", MaxRaw)
}

func (l *Listed) check() error {
	if len(l.Objects) > MaxListed {
		return malformed("list has %d objects, more than %d: split it", len(l.Objects), MaxListed)
	}
	for i := range l.Objects {
		o := &l.Objects[i]
		if err := cmp.Or(
			optional("namespace", o.Namespace),
			name("name", o.Name),
			optional("uid", o.UID),
		); err != nil {
			return err
		}
	}
	return cmp.Or(
		optional("group", l.Group),
		name("version", l.Version),
		name("resource", l.Resource),
		optional("revision", l.Revision),
		partOf(l.Part, l.Parts),
	)
}

func (l *Listed) size() int {
	n := len(l.Group) + len(l.Version) + len(l.Resource) + len(l.Revision) + 48
	for i := range l.Objects {
		o := &l.Objects[i]
		n += len(o.Namespace) + len(o.Name) + len(o.UID) + 7
	}
	return n
}

func (l *Listed) encode(w *writer) {
	w.array(7)
	w.str(l.Group)
	w.str(l.Version)
	w.str(l.Resource)
	w.str(l.Revision)
	w.uint(uint64(l.Part))
	w.uint(uint64(l.Parts))
	w.array(len(l.Objects))
	for i := range l.Objects {
		o := &l.Objects[i]
		w.array(3)
		w.str(o.Namespace)
		w.str(o.Name)
		w.str(o.UID)
	}
}

func (l *Listed) decode(r *reader) {
	r.array("list", 7)
	l.Group = r.name("group")
	l.Version = r.name("version")
	l.Resource = r.name("resource")
	l.Revision = r.name("revision")
	l.Part = r.uint32("part")
	l.Parts = r.uint32("parts")
	if n := r.list("objects", MaxListed, 5); n > 0 {
		l.Objects = make([]ListedObject, n)
	}
	for i := range l.Objects {
		r.array("object", 3)
		l.Objects[i] = ListedObject{Namespace: r.name("namespace"), Name: r.name("name"), UID: r.name("uid")}
		if r.err != nil {
			return
		}
	}
}
