package cdc

import "context"

// Attach begins a Record that doesn't work yet, and Work does its work.
func (r *Recorder) Attach(j Journal) error {
	if err := r.pipe.attach(j, 0); err != nil {
		return err
	}
	r.pipe.resume()
	return nil
}

func (r *Recorder) Work(ctx context.Context, j Journal) error { return r.work(ctx, j) }
