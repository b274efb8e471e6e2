// Package nbd serves volumes by the NBD protocol, and speaks it as a client.
//
// The server is fixed newstyle with structured replies, base:allocation, multi-conn and TLS. It
// guarantees to an Export that every call is within the volume, that the bytes a call of a write has were
// received completely before it, and that nothing a client sends, malformed or not, reaches
// the export otherwise. A large write is several calls; when one of them fails, or the client goes away before it
// has sent everything, others may have happened. To a client it guarantees that a reply is sent only after the calls it
// answers have returned, so that a write whose reply arrived is covered by any later flush, on
// whichever connection that flush is sent. A crash of the server loses no more than what the Export
// loses: nothing is held back or reordered here between a request and its call.
//
// Requests of one connection run concurrently, except that small ones and pieces of large ones usually run in
// the goroutine that reads the connection, since this was measured to be faster; one that turns out
// to be slow there is left behind and reading goes on elsewhere (see leader). Large reads of what is in the
// page cache are sent from there, if the export gives its descriptor. Memory for payloads
// is bounded over all connections; a connection that is idle holds none.
package nbd
