package cdc

import "iter"

// queue is first in, first out. The one item that was taken out and is being worked on can be
// left in busy: it still counts as the first.
type queue[T comparable] struct {
	items []T
	head  int
	busy  T
}

func (q *queue[T]) push(v T) { q.items = append(q.items, v) }

func (q *queue[T]) peek() (v T, ok bool) {
	if q.head == len(q.items) {
		return v, false
	}
	return q.items[q.head], true
}

func (q *queue[T]) pop() (v T, ok bool) {
	if v, ok = q.peek(); !ok {
		return v, false
	}
	var none T
	q.items[q.head] = none
	q.head++
	if 2*q.head >= len(q.items) { // as many moves as there were pops: constant on average
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	return v, true
}

// rest takes everything out but busy.
func (q *queue[T]) rest() []T {
	rest := q.items[q.head:]
	q.items, q.head = nil, 0
	return rest
}

// all walks over busy and the rest.
func (q *queue[T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		var none T
		if q.busy != none && !yield(q.busy) {
			return
		}
		for _, v := range q.items[q.head:] {
			if !yield(v) {
				return
			}
		}
	}
}
