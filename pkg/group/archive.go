package group

import (
	"net"
	"path"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
)

// Archive is where recovery points are kept beyond the retention of the journal, and which of them. A document that has
// `archive: {}` keeps them in a directory beside the replicas.
type Archive struct {
	Directory  string   `json:"directory,omitempty"`  // of all groups' archives; "" and no S3: archive, below the recovery directory
	S3         *S3      `json:"s3,omitempty"`         // instead of a directory
	Every      Duration `json:"every"`                // between two points, by their commits' times; 0: labelled ones alone
	Labeled    bool     `json:"labeled"`              // every labelled commit is archived
	Keep       Keep     `json:"keep"`                 // which points stay
	Prune      Duration `json:"prune"`                // between two removals of those that don't; 0: the applier never does it
	Recipients []string `json:"recipients,omitempty"` // age recipients; none: the archive isn't encrypted
	Identities string   `json:"identities,omitempty"` // file with an age identity of Recipients, which the applier needs
}

// S3 is a bucket in an object store.
type S3 struct {
	Endpoint    string `json:"endpoint"`              // host, or host:port
	Bucket      string `json:"bucket"`                // has to exist
	Prefix      string `json:"prefix,omitempty"`      // of all names; ""; none
	Region      string `json:"region,omitempty"`      // "": as the server says
	Insecure    bool   `json:"insecure,omitempty"`    // plain HTTP
	CAFile      string `json:"caFile,omitempty"`      // PEM bundle the server's certificate is checked with; "": the system's
	Credentials string `json:"credentials,omitempty"` // file as AWS's tools have it; "": the environment, then the machine's role
}

// Keep says which points stay: of each of the last so many hours, days and so on that have points, the newest one, as restic does it.
type Keep struct {
	Last    int      `json:"last"`    // points
	Hourly  int      `json:"hourly"`  // hours
	Daily   int      `json:"daily"`   // days
	Weekly  int      `json:"weekly"`  // weeks
	Monthly int      `json:"monthly"` // months
	Yearly  int      `json:"yearly"`  // years
	Within  Duration `json:"within"`  // before the newest point
	Labels  []string `json:"labels"`  // patterns of labels, as in path.Match
}

// defaults implements defaulter.
func (a *Archive) defaults() {
	*a = Archive{
		Every: Duration(time.Hour), Labeled: true, Prune: Duration(24 * time.Hour),
		Keep: Keep{Hourly: 24, Daily: 7, Weekly: 5, Monthly: 12, Labels: []string{"*"}},
	}
}

// ArchiveDirectory returns the directory that holds the archives of groups; "": they are not in one.
func (g *Group) ArchiveDirectory() string {
	a := g.Spec.Recovery.Archive
	switch {
	case a == nil || a.S3 != nil:
		return ""
	case a.Directory != "":
		return a.Directory
	}
	return filepath.Join(g.Spec.Recovery.Directory, "archive")
}

// maxKept is the largest number of points that a rule of Keep can give.
const maxKept = 1_000_000

func (v *validator) archive(at string, g *Group) {
	a := g.Spec.Recovery.Archive
	if a == nil {
		return
	}
	if a.S3 != nil {
		v.s3(at+".s3", a.S3)
		if a.Directory != "" {
			v.fail(at+".directory", "must be empty where s3 is given: an archive is in the one or in the other")
		}
	} else {
		v.archiveDirectory(at+".directory", g)
	}
	if a.Every != 0 {
		inRange(v, at+".every", a.Every, Duration(time.Second), Duration(366*24*time.Hour))
	} else if !a.Labeled {
		v.fail(at+".every", "is 0 and labeled is false: nothing would ever be archived; remove archive to have none")
	}
	if a.Prune != 0 {
		inRange(v, at+".prune", a.Prune, Duration(time.Minute), Duration(366*24*time.Hour))
	}
	k := a.Keep
	for name, n := range map[string]int{"last": k.Last, "hourly": k.Hourly, "daily": k.Daily, "weekly": k.Weekly, "monthly": k.Monthly, "yearly": k.Yearly} {
		inRange(v, at+".keep."+name, n, 0, maxKept)
	}
	inRange(v, at+".keep.within", k.Within, 0, Duration(100*366*24*time.Hour))
	v.each(at+".keep.labels", k.Labels, func(at, pattern string) {
		if pattern == "" {
			v.fail(at, `is missing; write a label, or a pattern such as release-*; "*" is every label`)
		} else if _, err := path.Match(pattern, ""); err != nil {
			v.fail(at, "%q is no pattern of labels; * stands for any text, ? for a character, [a-z] for one of those", pattern)
		}
	})
	v.each(at+".recipients", a.Recipients, v.recipient)
	v.together(at, "recipients", strings.Join(a.Recipients, ","), "identities", a.Identities)
	if a.Identities != "" {
		v.path(at+".identities", a.Identities)
	}
}

// archiveDirectory checks that an archive and the replicas don't get into each other's way.
func (v *validator) archiveDirectory(at string, g *Group) {
	dir := g.ArchiveDirectory()
	if g.Spec.Recovery.Archive.Directory != "" {
		v.path(at, dir)
	}
	replicas := filepath.Join(g.Spec.Recovery.Directory, g.Metadata.Name)
	mine := filepath.Join(dir, g.Metadata.Name)
	if inside(mine, replicas) || inside(replicas, mine) {
		v.fail(at, "%q would mix the archive with the replicas in %s; give it a directory of its own, best on other disks", dir, replicas)
	}
}

// inside tells whether a path is a directory or lies below it.
func inside(name, dir string) bool {
	rel, err := filepath.Rel(dir, name)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

func (v *validator) s3(at string, s *S3) {
	switch host, port, err := net.SplitHostPort(s.Endpoint); {
	case s.Endpoint == "":
		v.fail(at+".endpoint", "is missing; write the server as host or host:port")
	case strings.Contains(s.Endpoint, "/"), err == nil && (host == "" || port == ""), err != nil && strings.Contains(s.Endpoint, ":") && net.ParseIP(s.Endpoint) == nil:
		v.fail(at+".endpoint", "%q is no server; write host or host:port, without https:// (insecure says which of both it is)", s.Endpoint)
	}
	if s.Bucket == "" {
		v.fail(at+".bucket", "is missing")
	} else if !isBucket(s.Bucket) {
		v.fail(at+".bucket", "%q is no bucket; its name has 3 to 63 lower-case letters, digits, dots and inner hyphens", s.Bucket)
	}
	if s.Prefix != "" && (path.Clean(s.Prefix) != strings.TrimSuffix(s.Prefix, "/") || strings.HasPrefix(s.Prefix, "/") || strings.HasPrefix(s.Prefix, "..")) {
		v.fail(at+".prefix", "%q is no prefix; write names separated by single slashes, as in dr/archive", s.Prefix)
	}
	if s.CAFile != "" {
		v.path(at+".caFile", s.CAFile)
		if s.Insecure {
			v.fail(at+".caFile", "must be empty where insecure is true: plain HTTP has no certificates")
		}
	}
	if s.Credentials != "" {
		v.path(at+".credentials", s.Credentials)
	}
}

func isBucket(name string) bool {
	ok := len(name) >= 3 && len(name) <= 63 && !strings.ContainsAny(name[:1]+name[len(name)-1:], "-.")
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.')
	}
	return ok
}

// recipient checks an age recipient.
func (v *validator) recipient(at, value string) {
	switch {
	case value == "":
		v.fail(at, "is missing")
		return
	case strings.HasPrefix(strings.ToUpper(value), "AGE-SECRET-KEY"):
		v.fail(at, "is no age recipient but an identity, which belongs to the DR site alone; its recipient begins with age1")
		return
	}
	if _, err := age.ParseRecipients(strings.NewReader(value)); err != nil || strings.ContainsAny(value, "#\n") {
		v.fail(at, "%q is no age recipient; age-keygen prints one (age1…) beside each identity", value)
	}
}

// ArchiveStatus is how the archive of a group stands, as its applier sees it. What is not known is null.
type ArchiveStatus struct {
	Points int    `json:"points"` // in the archive
	Oldest *Point `json:"oldest"` // null while there is none, or the archive was not reached yet
	Newest *Point `json:"newest"` // as above
	// LagSeconds is how far the newest archived commit is behind the one that the replicas hold, by the commits' times. It grows to what `every`
	// says and then falls again, while all is well.
	LagSeconds *float64    `json:"lagSeconds"`
	Running    *ArchiveRun `json:"running"` // null while nothing is being archived
	Waiting    int         `json:"waiting"` // labelled commits that are still to be archived
	// Lost are labelled commits whose history went before they were archived, the newest few of them.
	Lost []Point `json:"lost,omitempty"`
	// Pruned is when the applier last removed what is no longer to be kept; null: not since it runs.
	Pruned *time.Time `json:"pruned"`
	// Problem is what keeps commits from being archived, and what to do; empty: nothing does.
	Problem string `json:"problem,omitempty"`
}

// ArchiveRun is how far the archiving of a commit has come.
type ArchiveRun struct {
	Point Point `json:"point"`
	Bytes int64 `json:"bytes"` // read
	Total int64 `json:"total"` // to be read
}
