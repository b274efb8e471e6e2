package barrier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/pkg/events"
)

// RequestMark asks the group's snapshotter for a labelled barrier now and returns its commit,
// which is stored in the control stream then. Labels may repeat; readers take the newest.
//
// Errors: ErrLabel, ErrNoSnapshotter, ErrNoMembers, *MissingError. Behind a time-out it is unknown
// whether the barrier was committed; asking again makes another one.
func RequestMark(ctx context.Context, conn *nats.Conn, group, label string, timeout time.Duration) (*events.Commit, error) {
	if err := CheckLabel(label); err != nil {
		return nil, err
	}
	body, err := json.Marshal(markRequest{Label: label})
	if err != nil {
		return nil, fmt.Errorf("request mark: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	m, err := conn.RequestWithContext(ctx, markSubject(group), body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, ErrNoSnapshotter
	case err != nil:
		return nil, fmt.Errorf("request mark: no answer (the mark may have been made all the same): %w", err)
	}
	var r markReply
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return nil, fmt.Errorf("request mark: decode answer: %w", err)
	}
	if r.Commit != nil {
		return r.Commit, nil
	}
	switch r.Failure {
	case failedLabel:
		return nil, ErrLabel
	case failedNoMembers:
		return nil, ErrNoMembers
	case failedMissing:
		return nil, &MissingError{Members: r.Missing}
	}
	return nil, fmt.Errorf("request mark: %s", r.Message)
}

// replyOf makes the answer to a mark request out of what became of the barrier.
func replyOf(commit *events.Commit, err error) markReply {
	var missing *MissingError
	switch {
	case err == nil:
		return markReply{Commit: commit}
	case errors.Is(err, ErrLabel):
		return markReply{Failure: failedLabel}
	case errors.Is(err, ErrNoMembers):
		return markReply{Failure: failedNoMembers}
	case errors.As(err, &missing):
		return markReply{Failure: failedMissing, Missing: missing.Members}
	}
	return markReply{Failure: failedOther, Message: err.Error()}
}
