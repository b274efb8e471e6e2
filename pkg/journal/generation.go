package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
)

// GenerationBucket is the KV bucket at the primary that holds the current generation of each stream.
const GenerationBucket = "farshore-generations"

// Generation returns the current generation of a part of the group, from the KV at this site,
// the primary. The first call for a part makes it 1. A KV that was lost or rolled back doesn't bring an
// older generation back: where a newer stream exists the KV is moved to that.
func (s *Site) Generation(ctx context.Context, group, part string) (uint32, error) {
	return s.generation(ctx, group, part, func(is, newest uint32) uint32 { return max(is, newest, 1) })
}

// Renew begins a new generation of a part whose generation from can't be continued, and returns its number:
// above from, at least atLeast, and above that of every stream the part has at this site, the primary. Where somebody
// has done so already, theirs is returned. The stream is not made.
func (s *Site) Renew(ctx context.Context, group, part string, from, atLeast uint32) (uint32, error) {
	return s.generation(ctx, group, part, func(is, newest uint32) uint32 {
		if is > from && is >= atLeast && is >= newest {
			return is
		}
		return max(is+1, newest+1, from+1, atLeast)
	})
}

// generation moves the part's key to what next says, given what it is (0: missing) and the newest stream's.
func (s *Site) generation(ctx context.Context, group, part string, next func(is, newest uint32) uint32) (uint32, error) {
	kv, err := s.KV(ctx, GenerationBucket, 0)
	if err != nil {
		return 0, err
	}
	key := group + "." + part
	for {
		is, revision, err := readGeneration(ctx, kv, key)
		if err != nil {
			return 0, err
		}
		// The key before the streams: whoever moves the key makes its stream later.
		existing, err := s.generations(ctx, group, part)
		if err != nil {
			return 0, err
		}
		newest := uint32(0)
		if len(existing) > 0 {
			newest = slices.Max(existing)
		}
		n := next(is, newest)
		if n == is {
			return n, nil
		}
		value := []byte(strconv.FormatUint(uint64(n), 10))
		if is == 0 {
			_, err = kv.Create(ctx, key, value)
		} else {
			_, err = kv.Update(ctx, key, value, revision)
		}
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, jetstream.ErrKeyExists), errors.Is(err, jetstream.ErrKeyRevisionMismatch): // somebody else was faster: the next round reads theirs
		default:
			return 0, fmt.Errorf("set generation of %s to %d: %w", key, n, err)
		}
	}
}

// readGeneration returns 0 for a key that is missing.
func readGeneration(ctx context.Context, kv jetstream.KeyValue, key string) (n uint32, revision uint64, err error) {
	entry, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read generation of %s: %w", key, err)
	}
	parsed, err := strconv.ParseUint(string(entry.Value()), 10, 32)
	if err != nil || parsed == 0 {
		return 0, 0, fmt.Errorf("read generation of %s: KV %s holds %q", key, GenerationBucket, entry.Value())
	}
	return uint32(parsed), entry.Revision(), nil
}

// generations lists the generations of a part that have a stream at this site, the primary.
func (s *Site) generations(ctx context.Context, group, part string) ([]uint32, error) {
	list := s.js.ListStreams(ctx, jetstream.WithStreamListSubject(fmt.Sprintf("fs.%s.%s.*", group, part)))
	var out []uint32
	for info := range list.Info() {
		if id, incarnation, err := ParseName(info.Config.Name); err == nil && incarnation == 0 && id.Group == group && id.Part == part {
			out = append(out, id.Generation)
		}
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list the streams of %s.%s: %w", group, part, err)
	}
	return out, nil
}

// closeOlder takes from older generations the room that they don't use: a server sets a stream's limit aside whatever
// it holds, and would soon have none left for generations that follow each other.
func (s *Site) closeOlder(ctx context.Context, id StreamID) error {
	if id.Generation == 1 {
		return nil
	}
	existing, err := s.generations(ctx, id.Group, id.Part)
	if err != nil {
		return err
	}
	for _, n := range existing {
		if n >= id.Generation {
			continue
		}
		older := StreamID{Group: id.Group, Part: id.Part, Generation: n}
		stream, err := s.js.Stream(ctx, older.Name())
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err == nil {
			is, used := stream.CachedInfo().Config, int64(stream.CachedInfo().State.Bytes)
			if is.MaxBytes <= max(used, 1) && is.MaxBytes > 0 {
				continue
			}
			is.MaxBytes = max(used, 1)
			_, err = s.js.UpdateStream(ctx, is)
		}
		if err != nil {
			return fmt.Errorf("take the unused room from stream %s: %w", older.Name(), err)
		}
	}
	return nil
}

// retired stands for a tenure's name in the subject of a stream whose writers are fenced by a newer generation.
const retired = tenureMark + "retired"

// fenceOlder fences the writers of older generations, so that a part has one writer, as a stream has. Where a newer
// generation has a stream, the caller itself is fenced: ErrFenced. What the older streams hold stays, and is
// still mirrored.
func (s *Site) fenceOlder(ctx context.Context, id StreamID) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	existing, err := s.generations(ctx, id.Group, id.Part)
	if err != nil {
		return err
	}
	for _, n := range existing {
		older := StreamID{id.Group, id.Part, n}
		if n > id.Generation {
			return fmt.Errorf("%w: generation %d of it exists", ErrFenced, n)
		}
		if n == id.Generation {
			continue
		}
		stream, err := s.js.Stream(ctx, older.Name())
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("fence the writers of %s: %w", older.Name(), err)
		}
		config := stream.CachedInfo().Config
		subject := older.Subject() + retired
		if slices.Equal(config.Subjects, []string{subject}) {
			continue
		}
		// Nothing is sent to that subject, so what an older writer sends reaches no stream any more.
		config.Subjects = []string{subject}
		if _, err := s.js.UpdateStream(ctx, config); err != nil {
			return fmt.Errorf("fence the writers of %s (it needs the permission to update it): %w", older.Name(), err)
		}
	}
	return nil
}
