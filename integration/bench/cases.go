package main

import "context"

// cases are all cases, in the order they are run and shown.
var cases = []benchCase{
	{
		name:  "nbd",
		about: "the NBD server with capture off against nbdkit's file plugin and qemu-nbd, all through the page cache, by fio's nbd engine",
		tools: []string{"fio", "nbdkit", "qemu-nbd"},
		run:   measureNBD,
	},
	{
		name:  "recording",
		about: "a volume that a capturer records, with the primary's NATS server beside it, against the same NBD server on a plain device (4 KiB random writes, a flush every 32, by fio)",
		tools: []string{"fio"},
		run: func(ctx context.Context, m *measuring) error {
			return m.compareRecording(ctx, 1<<30, []recordingJob{
				{"depth 1", 1, true}, {"depth 16", 16, true},
			})
		},
	},
	{
		name:  "recording-wide",
		about: "the same over 16 GiB, four times what the activity log's hot set covers: nearly every write needs a region that isn't listed",
		tools: []string{"fio"},
		run: func(ctx context.Context, m *measuring) error {
			return m.compareRecording(ctx, 16<<30, []recordingJob{{"depth 1", 1, false}, {"depth 16", 16, false}})
		},
	},
	{
		name:  "in-process",
		about: "4 KiB random writes into a recorder in this process, until all are stored in the journal of a NATS server beside it, against writing to the same kind of device and publishing one JetStream message per write",
		run:   measureInProcess,
	},
	{
		name:  "transport",
		about: "sequential writes of random data through NBD, until they are stored at the DR site and until its replica has them durably, against plain JetStream: a publisher, the same two servers, a mirror and a consumer of it",
		run:   measureTransport,
	},
	{
		name:  "barriers",
		about: "ten barriers a second over 8 volumes in 4 capturers, each volume written to (4 KiB random writes, depth 4, 1 MB/s): how long each tap withheld writes, from the first one withheld to the mark",
		run:   measureBarriers,
	},
	{
		name:  "scale",
		about: "1, 10 and 100 idle volumes of 64 MiB in one capturer, a barrier every second: memory, processor time and how long barriers take",
		run:   measureScale,
	},
	{
		name:  "recovery",
		about: "what is recovered how fast: an applier that was away catches up, a point is replayed into new volumes, and an applier is killed (SIGKILL) and started again while writes go on",
		run:   measureRecovery,
	},
	{
		name:  "objects",
		about: "5,000 Kubernetes objects of seven kinds between two real API servers: first sync, restarts with nothing changed, 50 changes a second, and the watcher's memory with 100 MB more to watch",
		run:   measureObjects,
	},
	{
		name:  "archive",
		about: "a volume of 8 GiB (or as much of it as BENCHTIME says) archived into a directory, encrypted, and restored, against restic with its defaults on the same disk, everything that is read in the page cache",
		run:   measureArchive,
	},
	{
		name:  "archive-memory",
		about: "memory of the process that archives and restores a volume of 8 GiB (or as much of it as BENCHTIME says), and one of an eighth of that",
		run:   measureArchiveMemory,
	},
	{
		name:  "archive-lag",
		about: "transit lag (64 KiB random writes, 8 MB/s) while points are archived one after the other by the applier, against the same without, interleaved",
		run:   measureArchiveLag,
	},
}
