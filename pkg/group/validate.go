package group

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Defaults and bounds of the numbers in a document.
const (
	defaultMargin      = 10 * time.Minute
	defaultLinger      = 2 * time.Millisecond
	defaultInterval    = time.Second
	defaultHoldLimit   = 500 * time.Millisecond
	defaultVoteTimeout = 10 * time.Second
	defaultRetention   = 24 * time.Hour
	defaultHotRegions  = 1024
	defaultAlertAt     = 80 // percent

	maxName       = 40        // bytes: stream names and subjects are built from names
	maxUID        = 253       // bytes: what an event can carry
	maxSocketPath = 107       // bytes: what the kernel takes
	maxFrameBytes = 256 << 10 // what a Frame event can carry
	sectorBytes   = 512
)

// validator checks a decoded document and gathers what is wrong with it.
type validator struct {
	problems []Problem
	bad      map[string]bool // fields that could not be decoded, already reported
}

func (v *validator) fail(path, format string, args ...any) {
	// A field that could not be decoded, or one inside or around it, holds a default or
	// nothing: what the checks would say about it would mislead.
	for p := path; p != ""; p = parent(p) {
		if v.bad[p] {
			return
		}
	}
	if v.bad[""] {
		return
	}
	v.problems = append(v.problems, Problem{path, fmt.Sprintf(format, args...)})
}

func parent(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

func (v *validator) group(g *Group) {
	v.equal("apiVersion", g.APIVersion, APIVersion)
	v.equal("kind", g.Kind, Kind)
	v.name("metadata.name", g.Metadata.Name)
	v.sites(g.Spec.Sites)
	if len(g.Spec.Volumes) == 0 && g.Spec.Objects == nil {
		v.fail("spec.volumes", "is missing; a group protects at least one volume, or objects")
	}
	v.volumes(g.Spec.Volumes)
	v.objects("spec.objects", g.Spec.Objects)

	j, c, b, r := g.Spec.Journal, g.Spec.Capture, g.Spec.Barriers, g.Spec.Recovery
	inRange(v, "spec.journal.maxBytes", j.MaxBytes, 64<<20, 1<<50)
	inRange(v, "spec.journal.margin", j.Margin, Duration(time.Minute), Duration(30*24*time.Hour))
	inRange(v, "spec.journal.replicas", j.Replicas, 1, 5)

	inRange(v, "spec.capture.memory", c.Memory, 64<<20, 1<<40)
	inRange(v, "spec.capture.frameBytes", c.FrameBytes, 4<<10, maxFrameBytes)
	inRange(v, "spec.capture.linger", c.Linger, Duration(100*time.Microsecond), Duration(time.Second))
	if c.Compression != CompressionS2 && c.Compression != CompressionNone {
		v.fail("spec.capture.compression", "must be s2 or none, is %q", c.Compression)
	}
	if c.SeedRate != 0 {
		inRange(v, "spec.capture.seedRate", c.SeedRate, 64<<10, 1<<40)
	}

	if c.WhenBusGone != BusGoneTrack && c.WhenBusGone != BusGoneStall {
		v.fail("spec.capture.whenBusGone", "must be track or stall, is %q", c.WhenBusGone)
	}
	inRange(v, "spec.capture.hotRegions", c.HotRegions, 16, 1<<20)
	if c.ScrubRate != 0 {
		inRange(v, "spec.capture.scrubRate", c.ScrubRate, 64<<10, 1<<40)
	}

	inRange(v, "spec.barriers.interval", b.Interval, Duration(time.Millisecond), Duration(time.Hour))
	inRange(v, "spec.barriers.holdLimit", b.HoldLimit, Duration(10*time.Millisecond), Duration(10*time.Second))
	inRange(v, "spec.barriers.voteTimeout", b.VoteTimeout, Duration(100*time.Millisecond), Duration(10*time.Minute))
	if b.VoteTimeout < b.HoldLimit {
		v.fail("spec.barriers.voteTimeout", "must be at least holdLimit (%s), is %s", b.HoldLimit, b.VoteTimeout)
	}

	v.path("spec.recovery.directory", r.Directory)
	inRange(v, "spec.recovery.retention", r.Retention, Duration(time.Minute), Duration(10*365*24*time.Hour))
	if r.Journal.MaxBytes != 0 {
		inRange(v, "spec.recovery.journal.maxBytes", r.Journal.MaxBytes, 64<<20, 1<<50)
	}
	inRange(v, "spec.recovery.journal.alertAt", r.Journal.AlertAt, 1, 100)
	if r.Journal.WhenFull != FullKeepReplicating && r.Journal.WhenFull != FullKeepHistory {
		v.fail("spec.recovery.journal.whenFull", "must be keep-replicating or keep-history, is %q", r.Journal.WhenFull)
	}
	v.recoveryObjects("spec.recovery.objects", r.Objects, g.Spec.Objects)
	v.archive("spec.recovery.archive", g)
}

func (v *validator) sites(s Sites) {
	v.site("spec.sites.primary", s.Primary)
	v.site("spec.sites.dr", s.DR)
	if s.Primary.Domain == s.DR.Domain && s.DR.Domain != "" {
		v.fail("spec.sites.dr.domain", "must differ from the primary's, is %q too", s.DR.Domain)
	}
}

func (v *validator) site(path string, s Site) {
	v.name(path+".domain", s.Domain)
	if s.URL != "" && s.Embedded != "" {
		v.fail(path+".embedded", "must be empty where url is given: the one means a server of this process, the other a server elsewhere")
	}
	if s.Embedded != "" {
		v.path(path+".embedded", s.Embedded)
	}
	if s.URL != "" {
		for _, one := range strings.Split(s.URL, ",") {
			u, err := url.Parse(strings.TrimSpace(one))
			if err != nil || u.Host == "" || (u.Scheme != "nats" && u.Scheme != "tls") {
				v.fail(path+".url", "%q is no server address; write nats://host:port or tls://host:port", one)
			}
		}
	}
	c := s.Credentials
	for name, file := range map[string]string{"nkeySeed": c.NKeySeed, "ca": c.CA, "cert": c.Cert, "key": c.Key} {
		if file != "" {
			v.path(path+".credentials."+name, file)
		}
	}
	v.together(path+".credentials", "cert", c.Cert, "key", c.Key)
}

func (v *validator) volumes(volumes []Volume) {
	seen := make(map[string]string)
	unique := func(what, path, value string) {
		if value == "" {
			return
		}
		if first, ok := seen[what+value]; ok {
			v.fail(path, "%q is already used by %s", value, first)
			return
		}
		seen[what+value] = path
	}
	for i, vol := range volumes {
		path := "spec.volumes[" + strconv.Itoa(i) + "]"
		v.volume(path, vol)
		unique("name", path+".name", vol.Name)
		unique("uid", path+".uid", vol.UID)
		unique("path", path+".path", vol.Path)
		unique("listen", path+".listen", vol.Listen)
		unique("replica", path+".replica.path", vol.Replica.Path)
	}
}

func (v *validator) volume(path string, vol Volume) {
	v.name(path+".name", vol.Name)
	if vol.Name == "objects" || vol.Name == "control" {
		v.fail(path+".name", "%q is the name of one of the group's own streams", vol.Name)
	}
	switch {
	case vol.UID == "":
		v.fail(path+".uid", "is missing; give the volume an identity that is never used again, such as the PV's handle or a UUID")
	case len(vol.UID) > maxUID:
		v.fail(path+".uid", "must have at most %d bytes, has %d", maxUID, len(vol.UID))
	}
	v.name(path+".capturer", vol.Capturer)
	v.path(path+".path", vol.Path)
	if vol.Size%sectorBytes != 0 {
		v.fail(path+".size", "must be a multiple of %d bytes, is %d", sectorBytes, int64(vol.Size))
	}
	v.listen(path, vol)
	if vol.Replica.Path != "" {
		v.path(path+".replica.path", vol.Replica.Path)
	}
}

func (v *validator) listen(path string, vol Volume) {
	network, address, _ := strings.Cut(vol.Listen, ":")
	switch network {
	case "":
		v.fail(path+".listen", "is missing; write unix:/path or tcp:host:port")
	case "unix":
		v.path(path+".listen", address)
		if len(address) > maxSocketPath {
			v.fail(path+".listen", "a socket's path has at most %d bytes, this one has %d", maxSocketPath, len(address))
		}
	case "tcp":
		if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
			v.fail(path+".listen", "%q is no address; write tcp:host:port", vol.Listen)
		}
		for _, f := range [][2]string{{"cert", vol.TLS.Cert}, {"key", vol.TLS.Key}, {"clientCA", vol.TLS.ClientCA}} {
			if f[1] == "" {
				v.fail(path+".tls."+f[0], "is missing; a volume is served over TCP only with mutual TLS")
			} else {
				v.path(path+".tls."+f[0], f[1])
			}
		}
	default:
		v.fail(path+".listen", "%q is no address; write unix:/path or tcp:host:port", vol.Listen)
	}
	if network != "tcp" && vol.TLS != (TLS{}) {
		v.fail(path+".tls", "is for tcp; a unix socket is protected by the permissions of its directory")
	}
}

func (v *validator) equal(path, value, want string) {
	switch value {
	case want:
	case "":
		v.fail(path, "is missing; write %s", want)
	default:
		v.fail(path, "must be %s, is %q", want, value)
	}
}

// name checks a name that becomes part of stream names and subjects: a DNS label.
func (v *validator) name(path, name string) {
	if name == "" {
		v.fail(path, "is missing")
		return
	}
	ok := len(name) <= maxName && name[0] != '-' && name[len(name)-1] != '-'
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		v.fail(path, "%q is no name; use lower-case letters, digits and inner hyphens, at most %d", name, maxName)
	}
}

func (v *validator) path(path, file string) {
	switch {
	case file == "":
		v.fail(path, "is missing")
	case !filepath.IsAbs(file):
		v.fail(path, "%q must be an absolute path", file)
	}
}

func (v *validator) together(path, a, aValue, b, bValue string) {
	switch {
	case aValue != "" && bValue == "":
		v.fail(path+"."+b, "is missing; %s needs it", a)
	case aValue == "" && bValue != "":
		v.fail(path+"."+a, "is missing; %s needs it", b)
	}
}

func inRange[T cmp.Ordered](v *validator, path string, value, least, most T) {
	if value < least || value > most {
		v.fail(path, "must be from %v to %v, is %v", least, most, value)
	}
}
