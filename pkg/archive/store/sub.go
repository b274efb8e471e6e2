package store

import (
	"context"
	"iter"
	"strings"
)

// Sub is the part of a store whose names begin with dir and '/'; dir is a valid name, or empty: the store itself.
func Sub(s Store, dir string) Store {
	if dir == "" {
		return s
	}
	return &sub{s: s, dir: dir + "/"}
}

type sub struct {
	s   Store
	dir string // with '/' at its end
}

func (s *sub) Put(ctx context.Context, name string, data []byte) error {
	return s.s.Put(ctx, s.dir+name, data)
}

func (s *sub) Get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	return s.s.Get(ctx, s.dir+name, off, length)
}

func (s *sub) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for info, err := range s.s.List(ctx, s.dir+prefix) {
			info.Name = strings.TrimPrefix(info.Name, s.dir)
			if !yield(info, err) {
				return
			}
		}
	}
}

func (s *sub) Delete(ctx context.Context, name string) error {
	return s.s.Delete(ctx, s.dir+name)
}

func (s *sub) String() string {
	return strings.TrimSuffix(s.s.String(), "/") + "/" + strings.TrimSuffix(s.dir, "/")
}
