// Package group is the ProtectionGroup document: what one protection group is, where its sites
// are, and how it is captured, cut and rebuilt. Every Farshore process reads the same document.
//
// Parsing is strict and complete: a field that is unknown, mistyped, missing, out of range or at
// odds with another is reported with its path, and all problems of a document are reported at
// once. A Group that was returned without an error has every default filled in and needs no
// further checks. docs/configuration.md lists every field.
package group

import (
	"fmt"
	"os"
)

// APIVersion and Kind are what a document must name itself.
const (
	APIVersion = "farshore.dev/v1alpha1"
	Kind       = "ProtectionGroup"
)

// Group is one protection group: the volumes and Kubernetes objects of one application and how they are protected.
type Group struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
	Spec       Spec     `json:"spec"`
}

// Metadata names the group.
type Metadata struct {
	Name string `json:"name"` // DNS label of at most 40 bytes
}

// Spec is what the group wants.
type Spec struct {
	Sites    Sites    `json:"sites"`
	Volumes  []Volume `json:"volumes"`
	Objects  *Objects `json:"objects,omitempty"` // nil: none are captured
	Journal  Journal  `json:"journal"`
	Capture  Capture  `json:"capture"`
	Barriers Barriers `json:"barriers"`
	Recovery Recovery `json:"recovery"`
}

// Sites are the two shores.
type Sites struct {
	Primary Site `json:"primary"`
	DR      Site `json:"dr"`
}

// Site is one site's NATS server, as the processes of that site reach it.
type Site struct {
	// URL of the site's servers, separated by commas ("nats://…" or "tls://…"). Where it is
	// empty the site's main process (snapshotter or applier) runs an embedded server.
	URL string `json:"url,omitempty"`
	// Domain is the JetStream domain; "primary" or "dr" by default.
	Domain string `json:"domain"`
	// Credentials are what a process of the site connects with.
	Credentials Credentials `json:"credentials"`
	// Embedded is the configuration file of the embedded server, used only where URL is
	// empty. With both empty a built-in configuration on loopback addresses is used.
	Embedded string `json:"embedded,omitempty"`
}

// Credentials are paths of files. Each process usually has its own, see Load.
type Credentials struct {
	NKeySeed string `json:"nkeySeed,omitempty"` // file with an NKEY user seed ("SU…")
	CA       string `json:"ca,omitempty"`       // PEM bundle the server's certificate is checked with
	Cert     string `json:"cert,omitempty"`     // PEM client certificate; with Key
	Key      string `json:"key,omitempty"`      // PEM key of Cert
}

// Volume is one protected volume.
type Volume struct {
	Name     string   `json:"name"`           // DNS label of at most 40 bytes, unique in the group
	UID      string   `json:"uid"`            // identity that is never used twice (the PV's handle)
	Capturer string   `json:"capturer"`       // --name of the capturer that serves the volume
	Path     string   `json:"path"`           // backing file or block device
	Size     ByteSize `json:"size,omitempty"` // bytes, a multiple of 512; 0: the size Path has
	Listen   string   `json:"listen"`         // "unix:/path" or "tcp:host:port"
	TLS      TLS      `json:"tls"`            // needed by tcp
	Replica  Replica  `json:"replica"`
}

// TLS is what an NBD server on TCP authenticates with, and whom it lets in. Paths of PEM files.
type TLS struct {
	Cert     string `json:"cert,omitempty"`
	Key      string `json:"key,omitempty"`
	ClientCA string `json:"clientCA,omitempty"`
}

// Replica is where a volume is rebuilt at the DR site.
type Replica struct {
	// Path of a block device. Where it is empty the replica is a sparse file in the
	// recovery directory.
	Path string `json:"path,omitempty"`
}

// Journal is about the group's streams.
type Journal struct {
	MaxBytes ByteSize `json:"maxBytes"` // of each stream at the primary
	Margin   Duration `json:"margin"`   // history that stays at the primary behind what the DR site stored
	Replicas int      `json:"replicas"` // servers that store each stream, 1 to 5
}

// Compression names how frames are compressed.
type Compression string

// The compressions.
const (
	CompressionS2   Compression = "s2"
	CompressionNone Compression = "none"
)

// WhenBusGone says what a tap does while its journal takes nothing and the capture memory is used up.
type WhenBusGone string

// What a tap can do then.
const (
	BusGoneTrack WhenBusGone = "track" // writes go on; their regions are noted and sent later
	BusGoneStall WhenBusGone = "stall" // writes wait
)

// Capture is about the taps of each capturer process.
type Capture struct {
	Memory      ByteSize    `json:"memory"`      // one budget for requests, queues and pending publishes
	FrameBytes  ByteSize    `json:"frameBytes"`  // content at which a frame is closed
	Linger      Duration    `json:"linger"`      // age at which a frame is closed
	Compression Compression `json:"compression"` // of frames
	SeedRate    ByteSize    `json:"seedRate"`    // bytes per second of a region pass; 0: unlimited
	WhenBusGone WhenBusGone `json:"whenBusGone"` // what writes do while the journal takes nothing
	HotRegions  int         `json:"hotRegions"`  // regions of 4 MiB that a crash leaves to be sent again, per volume
	ScrubRate   ByteSize    `json:"scrubRate"`   // bytes per second of the scrub in the background; 0: off
}

// Barriers is about the cuts through the group.
type Barriers struct {
	Interval    Duration `json:"interval"`    // between two scheduled barriers
	HoldLimit   Duration `json:"holdLimit"`   // longest time a tap withholds writes
	VoteTimeout Duration `json:"voteTimeout"` // longest wait for the marks to be stored
}

// Recovery is about the DR site.
type Recovery struct {
	Directory string   `json:"directory"` // holds <group>/: replicas, checkpoint, base
	Retention Duration `json:"retention"` // how far back recovery points reach
	Journal   Mirrors  `json:"journal"`

	Objects RecoveryObjects `json:"objects"`

	Archive *Archive `json:"archive,omitempty"` // nil: there is none
}

// WhenFull says what becomes of the mirrors when they have grown to their limit.
type WhenFull string

// What can become of them.
const (
	FullKeepReplicating WhenFull = "keep-replicating" // the oldest history goes, and its points are named
	FullKeepHistory     WhenFull = "keep-history"     // the mirror that grows most is detached
)

// Mirrors bounds what the mirrors of the group's streams use at the DR site.
type Mirrors struct {
	MaxBytes ByteSize `json:"maxBytes"` // of all of the group's mirrors together; 0: no limit
	AlertAt  int      `json:"alertAt"`  // percent of maxBytes at which status and metrics warn
	WhenFull WhenFull `json:"whenFull"` // at maxBytes
}

// Load reads the document at path, lets the environment override how this process reaches the
// sites (see EnvironVariables), and validates the result. A document with problems gives a
// *ProblemsError that lists all of them.
func Load(path string) (*Group, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read group document: %w", err)
	}
	return LoadFrom(path, data)
}

// LoadFrom is Load for what was read from path.
func LoadFrom(path string, data []byte) (*Group, error) {
	g, err := parse(data, os.Getenv)
	if err != nil {
		return nil, fmt.Errorf("group document %s: %w", path, err)
	}
	return g, nil
}

// Parse is Load for a document in memory; the environment is not looked at.
func Parse(data []byte) (*Group, error) {
	return parse(data, func(string) string { return "" })
}

// Default returns a document with every default filled in and everything that has none empty.
func Default() *Group {
	return &Group{
		Spec: Spec{
			Sites: Sites{Primary: Site{Domain: "primary"}, DR: Site{Domain: "dr"}},
			Journal: Journal{
				MaxBytes: 8 << 30,
				Margin:   Duration(defaultMargin),
				Replicas: 1,
			},
			Capture: Capture{
				Memory:      256 << 20,
				FrameBytes:  maxFrameBytes,
				Linger:      Duration(defaultLinger),
				Compression: CompressionS2,
				WhenBusGone: BusGoneTrack,
				HotRegions:  defaultHotRegions,
				ScrubRate:   1 << 20,
			},
			Barriers: Barriers{
				Interval:    Duration(defaultInterval),
				HoldLimit:   Duration(defaultHoldLimit),
				VoteTimeout: Duration(defaultVoteTimeout),
			},
			Recovery: Recovery{
				Directory: "/var/lib/farshore",
				Retention: Duration(defaultRetention),
				Journal:   Mirrors{AlertAt: defaultAlertAt, WhenFull: FullKeepReplicating},
				Objects:   RecoveryObjects{Apply: true},
			},
		},
	}
}

// VolumesOf returns the volumes that the capturer of the given name serves, in the document's order.
func (g *Group) VolumesOf(capturer string) []Volume {
	var out []Volume
	for _, v := range g.Spec.Volumes {
		if v.Capturer == capturer {
			out = append(out, v)
		}
	}
	return out
}

// Volume returns the volume of the given name.
func (g *Group) Volume(name string) (Volume, bool) {
	for _, v := range g.Spec.Volumes {
		if v.Name == name {
			return v, true
		}
	}
	return Volume{}, false
}
