package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/farshore/farshore/pkg/archive/store"
)

// ErrInjected is wrapped by the errors of faults that FailAt and DieAt make.
var ErrInjected = errors.New("injected fault")

// Op is one operation on a Faulty.
type Op struct {
	N    int    // which it is, from 1, in the order in which they began
	Kind string // Put, Get, List or Delete
	Name string // of the object, or the prefix
}

// String returns a line for people.
func (o Op) String() string { return fmt.Sprintf("%d: %s %s", o.N, o.Kind, o.Name) }

// Fault is what goes wrong with an operation. Nil is none.
type Fault struct {
	Before error // it fails with this error and has no effect; a listing tells nothing
	After  error // it takes effect and fails all the same; a listing tells everything before it fails
	// Data changes what a Get returns, or what a Put stores. It may change its argument, which is a copy. A Get that has less
	// than was asked for then is ErrShort, as it is with every store.
	Data func([]byte) []byte
	// Then is called when the operation has taken effect, before it returns. A hook itself is called before.
	Then func()
}

// Faulty is a store that fails on purpose. It notes what it was asked for.
type Faulty struct {
	store.Store // what it wraps

	mu   sync.Mutex
	hook func(Op) *Fault
	ops  []Op
}

// NewFaulty wraps a store. Nothing fails until On says so.
func NewFaulty(s store.Store) *Faulty { return &Faulty{Store: s} }

// On sets the hook that decides about every operation from now on; nil: nothing fails. It may block, and use the store that was wrapped. It
// is called with nothing locked, by several goroutines at once. Operations are counted from 1 again.
func (f *Faulty) On(hook func(Op) *Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook, f.ops = hook, nil
}

// Ops returns what was asked for since On.
func (f *Faulty) Ops() []Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ops)
}

// FailAt is a hook that lets the n-th operation fail, before or after it took effect.
func FailAt(n int, after bool) func(Op) *Fault {
	return func(op Op) *Fault {
		if op.N != n {
			return nil
		}
		return fail(op, after)
	}
}

// DieAt is a hook that lets the n-th operation fail, before or after it took effect, and all that begin later before they do:
// what a process that dies leaves.
func DieAt(n int, after bool) func(Op) *Fault {
	return func(op Op) *Fault {
		if op.N < n {
			return nil
		}
		return fail(op, after && op.N == n)
	}
}

func fail(op Op, after bool) *Fault {
	if after {
		return &Fault{After: fmt.Errorf("%w after %s", ErrInjected, op)}
	}
	return &Fault{Before: fmt.Errorf("%w before %s", ErrInjected, op)}
}

// Truncate is a Fault.Data that cuts n bytes from the end.
func Truncate(n int) func([]byte) []byte {
	return func(b []byte) []byte { return b[:max(0, len(b)-n)] }
}

// Flip is a Fault.Data that flips one bit, counted from the start modulo the length.
func Flip(bit int) func([]byte) []byte {
	return func(b []byte) []byte {
		if len(b) > 0 {
			b[bit/8%len(b)] ^= 1 << (bit % 8)
		}
		return b
	}
}

func (f *Faulty) begin(kind, name string) Fault {
	f.mu.Lock()
	op := Op{N: len(f.ops) + 1, Kind: kind, Name: name}
	f.ops = append(f.ops, op)
	hook := f.hook
	f.mu.Unlock()
	if hook != nil {
		if fault := hook(op); fault != nil {
			return *fault
		}
	}
	return Fault{}
}

// end tells what an operation that took effect, or failed by itself, returns.
func (f Fault) end(err error) error {
	if f.Then != nil {
		f.Then()
	}
	if err == nil {
		err = f.After
	}
	return err
}

// Put implements store.Store.
func (f *Faulty) Put(ctx context.Context, name string, data []byte) error {
	fault := f.begin("Put", name)
	if fault.Before != nil {
		return fault.Before
	}
	if fault.Data != nil {
		data = fault.Data(slices.Clone(data))
	}
	return fault.end(f.Store.Put(ctx, name, data))
}

// Get implements store.Store.
func (f *Faulty) Get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	fault := f.begin("Get", name)
	if fault.Before != nil {
		return nil, fault.Before
	}
	data, err := f.Store.Get(ctx, name, off, length)
	if err == nil && fault.Data != nil {
		if data = fault.Data(data); int64(len(data)) < length {
			err = fmt.Errorf("read %s: %w", name, store.ErrShort)
		}
	}
	if err = fault.end(err); err != nil {
		return nil, err
	}
	return data, nil
}

// List implements store.Store.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		fault := f.begin("List", prefix)
		if fault.Before != nil {
			yield(store.Info{}, fault.Before)
			return
		}
		for info, err := range f.Store.List(ctx, prefix) {
			if !yield(info, err) || err != nil {
				return
			}
		}
		if err := fault.end(nil); err != nil {
			yield(store.Info{}, err)
		}
	}
}

// Delete implements store.Store.
func (f *Faulty) Delete(ctx context.Context, name string) error {
	fault := f.begin("Delete", name)
	if fault.Before != nil {
		return fault.Before
	}
	return fault.end(f.Store.Delete(ctx, name))
}
