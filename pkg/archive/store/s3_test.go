package store_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/farshore/farshore/internal/s3rig"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

func openS3(t *testing.T, o store.S3Options) *store.S3 {
	t.Helper()
	s, err := store.NewS3(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// eachStore runs a test against every object store.
func eachStore(t *testing.T, test func(t *testing.T, server *s3rig.Server)) {
	for _, name := range s3rig.Stores() {
		t.Run(name, func(t *testing.T) { test(t, s3rig.Start(t, name)) })
	}
}

func TestS3(t *testing.T) {
	eachStore(t, func(t *testing.T, server *s3rig.Server) {
		var buckets atomic.Int64
		storetest.Run(t, func(t *testing.T) store.Store {
			o := server.Bucket(fmt.Sprintf("bucket-%d", buckets.Add(1)))
			o.Prefix = "DR site/archive/"
			return openS3(t, o)
		})
	})
}
