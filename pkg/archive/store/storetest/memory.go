// Package storetest holds the conformance suite of stores, a store in memory, and one that fails on purpose.
package storetest

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/archive/store"
)

// Memory is a store in memory.
type Memory struct {
	// Now is its clock; nil: time.Now. It is called with nothing locked.
	Now func() time.Time

	mu      sync.Mutex
	objects map[string]object
}

type object struct {
	data     []byte
	modified time.Time
}

var _ store.Store = (*Memory)(nil)

// Put implements store.Store.
func (m *Memory) Put(ctx context.Context, name string, data []byte) error {
	if err := check(ctx, name); err != nil {
		return err
	}
	now := time.Now
	if m.Now != nil {
		now = m.Now
	}
	at := now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.objects == nil {
		m.objects = make(map[string]object)
	}
	m.objects[name] = object{data: slices.Clone(data), modified: at}
	return nil
}

// Get implements store.Store.
func (m *Memory) Get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	if err := check(ctx, name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	o, ok := m.objects[name]
	m.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("read %s: %w", name, store.ErrNotFound)
	}
	size := int64(len(o.data))
	if length < 0 {
		length = size - off
	}
	if off < 0 || off > size || length > size-off {
		return nil, fmt.Errorf("read %s: %w", name, store.ErrShort)
	}
	return slices.Clone(o.data[off : off+length]), nil
}

// List implements store.Store.
func (m *Memory) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		m.mu.Lock()
		var infos []store.Info
		for name, o := range m.objects {
			if strings.HasPrefix(name, prefix) {
				infos = append(infos, store.Info{Name: name, Size: int64(len(o.data)), Modified: o.modified})
			}
		}
		m.mu.Unlock()
		slices.SortFunc(infos, func(a, b store.Info) int { return cmp.Compare(a.Name, b.Name) })
		for _, info := range infos {
			if ctx.Err() != nil {
				yield(store.Info{}, context.Cause(ctx))
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Delete implements store.Store.
func (m *Memory) Delete(ctx context.Context, name string) error {
	if err := check(ctx, name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
	return nil
}

// String implements store.Store.
func (m *Memory) String() string { return "memory" }

func check(ctx context.Context, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return store.ValidName(name)
}
