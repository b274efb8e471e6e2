package archive

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/pkg/archive/store"
)

// A manifest is one object of the store, below pointsPrefix by its barrier in 20 digits:
//
//	magic     8 bytes, the last one is the version
//	CRC-32C   4 bytes, little-endian, of what follows
//	point     as JSON; sealed if the archive is encrypted, bound to the object's name
const (
	pointsPrefix  = "points/"
	manifestMagic = "FSHPOIN\x01"
	manifestLimit = 64 << 20
)

func pointObject(barrier uint64) string { return fmt.Sprintf("%s%020d", pointsPrefix, barrier) }

// parsePointObject is pointObject's inverse.
func parsePointObject(object string) (barrier uint64, ok bool) {
	barrier, err := strconv.ParseUint(strings.TrimPrefix(object, pointsPrefix), 10, 64)
	return barrier, err == nil && pointObject(barrier) == object
}

func encodePoint(p *Point, k *keys) ([]byte, error) {
	plain, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	out := append([]byte(manifestMagic), 0, 0, 0, 0)
	n := len(out)
	out = k.seal(out, plain, []byte(pointObject(p.Barrier)))
	binary.LittleEndian.PutUint32(out[n-4:], crc32.Checksum(out[n:], castagnoli))
	return out, nil
}

// decodePoint is encodePoint's inverse, of a point of the given barrier.
func decodePoint(raw []byte, barrier uint64, k *keys) (*Point, error) {
	n := len(manifestMagic)
	switch {
	case len(raw) < n+4 || string(raw[:n-1]) != manifestMagic[:n-1]:
		return nil, errors.New("it is no manifest")
	case raw[n-1] != manifestMagic[n-1]:
		return nil, fmt.Errorf("it is a manifest of version %d, which this version of Farshore doesn't know", raw[n-1])
	case crc32.Checksum(raw[n+4:], castagnoli) != binary.LittleEndian.Uint32(raw[n:]):
		return nil, errors.New("it is altered")
	}
	plain, err := k.open(nil, raw[n+4:], []byte(pointObject(barrier)))
	if err != nil {
		return nil, err
	}
	p := new(Point)
	if err := json.Unmarshal(plain, p); err != nil {
		return nil, err
	}
	if p.Barrier != barrier {
		return nil, fmt.Errorf("it is of barrier %d", p.Barrier)
	}
	return p, p.valid()
}

// valid tells whether the point's parts can be.
func (p *Point) valid() error {
	for i, part := range p.Parts {
		switch {
		case part.Name == "":
			return errors.New("a part has no name")
		case part.Size < 0 || part.Data < 0 || part.Data > part.Size:
			return fmt.Errorf("part %s has %d bytes, %d of them data", part.Name, part.Size, part.Data)
		case i > 0 && p.Parts[i-1].Name >= part.Name:
			return fmt.Errorf("part %s is not in its place", part.Name)
		}
	}
	return nil
}

// Points returns the points, oldest first. Manifests that can't be used are in damaged; they are no points.
func (a *Archive) Points(ctx context.Context) (points []Point, damaged []*DamageError, err error) {
	var infos []store.Info
	for info, err := range a.store.List(ctx, pointsPrefix) {
		if err != nil {
			return nil, nil, err
		}
		infos = append(infos, info)
	}
	read := make([]*Point, len(infos))
	bad := make([]*DamageError, len(infos))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(a.requests)
	for i, info := range infos {
		g.Go(func() error {
			p, err := a.point(ctx, info)
			if errors.Is(err, store.ErrNotFound) {
				if there, err := there(ctx, a.store, info.Name); err != nil || there {
					return errors.Join(err, errFlickers(info.Name))
				}
				return nil // it is gone by now
			}
			if damage := new(DamageError); errors.As(err, &damage) {
				bad[i] = damage
				return nil
			}
			read[i] = p
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	maps.DeleteFunc(a.manifests, func(object string, _ manifest) bool {
		_, there := slices.BinarySearchFunc(infos, object, func(i store.Info, object string) int { return strings.Compare(i.Name, object) })
		return !there
	})
	a.mu.Unlock()
	for i := range infos {
		if read[i] != nil {
			points = append(points, read[i].clone())
		}
		if bad[i] != nil {
			damaged = append(damaged, bad[i])
		}
	}
	return points, damaged, nil
}

// point reads a manifest, or takes it from memory if it was read before.
func (a *Archive) point(ctx context.Context, info store.Info) (*Point, error) {
	a.mu.Lock()
	if m := a.manifests[info.Name]; m.point != nil && m.info == info {
		a.mu.Unlock()
		return m.point, nil
	}
	a.mu.Unlock()
	barrier, ok := parsePointObject(info.Name)
	if !ok {
		return nil, &DamageError{Object: info.Name, Reason: "it is named like no point"}
	}
	if info.Size > manifestLimit {
		return nil, &DamageError{Object: info.Name, Reason: fmt.Sprintf("it has %d bytes", info.Size)}
	}
	raw, err := a.get(ctx, info.Name, 0, -1)
	if err != nil {
		return nil, err
	}
	p, err := decodePoint(raw, barrier, a.keys)
	if err != nil {
		return nil, &DamageError{Object: info.Name, Reason: err.Error()}
	}
	a.mu.Lock()
	a.manifests[info.Name] = manifest{info, p}
	a.mu.Unlock()
	return p, nil
}

// manifest is a point that was read, and the object that it was read from.
type manifest struct {
	info  store.Info
	point *Point
}

func (p *Point) clone() Point {
	c := *p
	c.Parts = slices.Clone(p.Parts)
	c.Set = slices.Clone(p.Set)
	return c
}
