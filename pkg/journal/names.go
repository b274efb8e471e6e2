package journal

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// The parts of a group that are no volumes.
const (
	Objects = "objects"
	Control = "control"
)

// StreamID names one stream of a group's journal: one incarnation of one part's history.
type StreamID struct {
	Group      string
	Part       string // a volume's name, Objects or Control
	Generation uint32 // from 1
}

// Name returns the name of the origin, the stream at the primary.
func (id StreamID) Name() string {
	return fmt.Sprintf("FS_%s_%s_g%d", id.Group, id.Part, id.Generation)
}

// tenureMark stands between Subject and the tenure's name, where a tenure has a subject of its own.
const tenureMark = "-t"

// Subject returns the one subject of the stream. A stream with more than one replica has the current
// tenure's name behind it, in the same token: Subject()-t<name>.
func (id StreamID) Subject() string {
	return fmt.Sprintf("fs.%s.%s.g%d", id.Group, id.Part, id.Generation)
}

// Mirror returns the name of the stream's mirror at the DR site. Incarnations count from 1: a
// mirror with a hole is continued by the next one.
func (id StreamID) Mirror(incarnation int) string {
	return fmt.Sprintf("%s_m%d", id.Name(), incarnation)
}

// ErrName is a stream, group or volume name that can't be used.
var ErrName = errors.New("bad name")

var streamName = regexp.MustCompile(`^FS_([^_]+)_([^_]+)_g([1-9][0-9]*)(?:_m([1-9][0-9]*))?$`)

// ParseName is the inverse of Name and Mirror; the incarnation of an origin is 0.
func ParseName(name string) (id StreamID, incarnation int, err error) {
	m := streamName.FindStringSubmatch(name)
	if m == nil {
		return StreamID{}, 0, fmt.Errorf("%w: %q is no stream of a journal", ErrName, name)
	}
	generation, err := strconv.ParseUint(m[3], 10, 32)
	if err != nil {
		return StreamID{}, 0, fmt.Errorf("%w: generation of %q: %w", ErrName, name, err)
	}
	if m[4] != "" {
		if incarnation, err = strconv.Atoi(m[4]); err != nil {
			return StreamID{}, 0, fmt.Errorf("%w: incarnation of %q: %w", ErrName, name, err)
		}
	}
	id = StreamID{Group: m[1], Part: m[2], Generation: uint32(generation)}
	return id, incarnation, id.check()
}

var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// ValidName tells whether s can name a group: a DNS label of at most 40 bytes.
func ValidName(s string) error {
	if len(s) > 40 || !label.MatchString(s) {
		return fmt.Errorf("%w: %q: want lower-case letters, digits and '-', at most 40", ErrName, s)
	}
	return nil
}

// ValidVolume tells whether s can name a volume: as ValidName, and not a reserved word.
func ValidVolume(s string) error {
	if s == Objects || s == Control {
		return fmt.Errorf("%w: %q is reserved", ErrName, s)
	}
	return ValidName(s)
}

// compare orders by group, part and generation.
func (id StreamID) compare(other StreamID) int {
	return cmp.Or(cmp.Compare(id.Group, other.Group), cmp.Compare(id.Part, other.Part), cmp.Compare(id.Generation, other.Generation))
}

func (id StreamID) check() error {
	if err := ValidName(id.Group); err != nil {
		return err
	}
	if err := ValidName(id.Part); err != nil {
		return err
	}
	if id.Generation == 0 {
		return fmt.Errorf("%w: %s: generations count from 1", ErrName, id.Name())
	}
	return nil
}
