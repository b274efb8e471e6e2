// Package activity is the activity log of a volume: the durable list of regions that may differ from
// the volume's stream.
//
// A region of 4 MiB is in one of these states.
//
//   - clean: the stream holds what the device holds.
//   - hot: a mutation of it may be on the device and not in the journal, or not be on the device for good
//     though it is in the journal. At most Options.Hot regions are (those that were just sent again may
//     exceed it for a moment).
//   - stale: it has to be sent again. Any number can be.
//
// Guarantee: a region is listed durably before Begin returns, for each range that was ever begun,
// until it is provably clean: no mutation of it is between Begin and End, the last one's place is stored
// in the journal, and the device was flushed after that one had ended. What isn't proven when the log is
// opened again is stale. A region that became clean stays known, with a sequence that its last mutation
// isn't behind, for Options.Keep; so when the end of a stream is lost, Lost tells which regions
// to send again. A log that is missing, damaged, or of another volume, and one that was closed before its
// device was changed, begins anew with every region stale: never with fewer. After an error of the file
// nothing is taken to be written that wasn't written since, with everything else, to a new file.
//
// # The pass
//
// Stale regions are sent again in stream order: NextStale gives a run of them, the recorder reads and
// appends it part by part, each part while no mutation of it is between Begin and End, and tells Resent.
// Then the regions are hot until that is stored and flushed. What makes a region stale in between (a
// failed write, a dropped pipeline) keeps it stale.
//
// # The file
//
// It consists of sectors of 512 bytes, numbers are little-endian:
//
//	 0  4  CRC-32C of the rest of the sector
//	 4  8  which file it belongs to: a random number
//	12  4  its number in the file
//	16  4  the number of its record's first sector
//	20  4  how many sectors its record has
//	24  4  how many sectors, from the first of the file on, were durable when it was written
//	28  4  how many of the following bytes are used
//	32     its part of the record
//
// A new file is written beside the old one with its first record, which has everything, and zeros up to
// its full length, made durable, and renamed: when the log is opened, when a file is full, and after any
// error. Then one record after another is appended, each in sectors of its own, with fdatasync
// where somebody waits for it; blocks and length don't change. So a sector that was written is never
// written again, a record that lacks a sector that is still zero was not finished, and a sector that
// is neither zero nor right is damage; as is a record that lacks sectors of which a later one says
// that they were durable.
//
// A record begins with its kind. The first one of a file has, behind it, "farshore activity log\n", the
// version of the format, the volume's UID, and the number of sectors of the file; then both have the size
// of the device, the stream (generation, creation time, epoch), the highest acknowledged sequence, the
// highest sequence of a covered region that was forgotten, flags (seeded, closed), the device's
// modification time when it was closed, and the time; then runs of regions that come onto the list; then
// the regions that leave it (in the first record: that had left it), with the age and the sequence. A file
// has 256 KiB for changes or as much as its first record takes: a bit for each region at most, and up to
// 65,536 covered regions.
package activity
