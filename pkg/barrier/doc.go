// Package barrier cuts all volumes of a protection group, and its Kubernetes objects, at one instant and
// commits the cut.
//
// A barrier has three steps, each bearing the barrier's token. hold closes admission at every
// tap: a mutation that arrives behind it waits and touches nothing. When every member has
// confirmed its hold, mark makes each tap append a Mark to its volume's stream and open
// admission at once. Between the two, in app and labelled barriers, the watcher of the objects reads the API
// server's revision. When every member's Mark is stored, the coordinator appends a Commit with
// the sequences of all marks to the control stream; only that makes the barrier valid. If a
// member refuses, or doesn't answer in time, the taps are released, nothing is committed, and
// the member is named. Marks without a commit are harmless: readers pass them by.
//
// # What is guaranteed
//
// A committed cut contains a mutation only if it contains every mutation that was acknowledged,
// on any volume of the cut, before that one was issued. It is what a power loss of all volumes
// at one instant would have left.
//
// Proof. Let y, on volume B, be in the cut, and let x, on volume A, have been acknowledged before
// y was issued. The claim is that x's position in A's stream is below the position of A's Mark.
//
//  1. The recorder appends a mutation to its stream before it acknowledges it, and a Mark is
//     appended behind everything that was appended before. So it is enough to show that x was
//     acknowledged before A was told to mark.
//  2. y is before B's Mark, so y was admitted at B before B appended its Mark. From the moment B
//     confirmed the hold until it appended the Mark B admitted nothing: the mark was accepted,
//     and a tap accepts a mark only while the hold of that very token has been closed without a
//     break. So y was admitted, and therefore issued, before B confirmed.
//  3. The coordinator asks nobody to mark before everybody has confirmed. So B's confirmation
//     comes before any tap, A among them, is told to mark.
//
// Together: x acknowledged → y issued → y admitted → B confirmed → A told to mark, each before the
// next. ∎
//
// The tap confirms without waiting for mutations that it had admitted before the hold. Such a
// mutation may be appended on either side of the Mark, and both sides are right. It hasn't been
// acknowledged when the hold is confirmed; if it falls behind the Mark, its acknowledgement comes
// behind the Mark, too, and by step 2 nothing that was issued after this acknowledgement can be in
// the cut on any volume: all that is in the cut was issued before the first Mark. So no one who is
// in the cut can have relied on it. Waiting would only add the slowest write of the backing
// device to every hold.
//
// # Objects
//
// The objects are one more member. Their tap is no gate before the API server, which nobody can hold: it is a
// gate between the watcher and the objects stream. So what it holds is not what happens to an object, only
// what is told about it, and two more steps are needed. R is the API server's revision, read between the last
// confirmed hold and the first mark. An object's change has a revision, and it is acknowledged once
// the API server has committed it under that revision.
//
// In an app or labelled cut (R read, the objects' Mark behind exactly the changes up to R):
//
//   - Object before write. Let y, on volume B, be in the cut, and let change o of an object have been acknowledged
//     before y was issued. By step 2 y was issued before B confirmed, and R is read behind that. So o was
//     acknowledged before R was read, its revision is at most R, and the Mark proves that all of those stand
//     before it: o is in the cut.
//   - Write before object. Let change o be in the cut, and let x, on volume A, have been acknowledged before o was
//     issued. Nothing above R stands before the Mark, so o was committed before the reading of R ended, and
//     that was before A was told to mark. So x was acknowledged before A was told to mark: x is in the cut.
//
// If R were read before the last hold, a write could be admitted behind the reading that relied on a
// change above R. If it were read behind the first mark, a change up to R could rely on a write behind that mark.
//
// In a crash cut nothing is asked of the API server, so one that is down holds no cut of the volumes back. The
// watcher marks with what it has appended: from its confirmed hold on nothing more, so what is in the cut was
// committed before any tap was told to mark. Write before object therefore holds as above. Object before write does
// not, nor object before object of another kind: the objects may trail, by what the watch takes to tell of a
// change. The commit bears the revision that was proven, which says how far.
//
// Revisions order changes only within one store: what an aggregated API server keeps in another one is in the cut
// as of when its watch told it.
//
// The proof may take as long as a vote, since the volumes open with their own marks and no writer of objects waits.
//
// # Why a token closes a tap once
//
// Step 2 needs that a token's hold is closed at most once. A hold that is delivered twice could
// close a tap that had opened by itself in between, and the mark would then cut behind mutations
// that depend on what other volumes did behind their marks. So a tap refuses every hold whose
// token isn't newer than all that it has seen, whether or not that hold has ended.
//
// # Tokens, identities, crashes
//
// Tokens are ordered by the snapshotter's epoch, which is the epoch of its writer of the control
// stream, and then by the barrier's number. A newer hold voids an older one. The older of two
// snapshotters is refused by every tap that has heard the newer one, and its commits can't be
// stored: the newer one's epoch fences its writer, and it ends with journal.ErrFenced. A tap that
// isn't told to mark within the hold limit opens by itself and refuses that token. Answers carry
// the token, so an answer to another attempt is never counted, and the generation and writer's
// epoch of the volume's stream, so a tap that was started again within a barrier doesn't vote in it.
//
// The coordinator keeps nothing outside of the control stream. A new one reads the stream, goes on
// with the roster, above the highest barrier number seen by the stream or by any tap, and never with
// an earlier time: a commit's time is max(previous + 1 µs, clock).
//
// # Roster
//
// A volume of the document joins when its tap is first heard. It becomes a member with the first
// barrier that has its vote, which it gives once its region pass is done, and then every commit needs
// its vote: an unreachable member is never dropped. It leaves when the document no longer lists it.
// A joining volume holds no commit back. The objects join, vote and leave in the same way, under the name
// journal.Objects, which no volume can have. A snapshotter that doesn't know of objects lets them leave; they
// join again under one that does.
//
// The messages travel over core NATS at the primary site and may be lost; a lost one fails the
// barrier and nothing else.
package barrier
