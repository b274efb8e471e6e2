package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"filippo.io/age"

	"github.com/farshore/farshore/internal/grid"
)

func measureArchive(ctx context.Context, m *measuring) error {
	restic, err := resticProgram(ctx)
	if err != nil {
		return err
	}
	size := int64(8<<30*min(1, m.b.scale)) / grid.Chunk * grid.Chunk
	if err := roomFor(m.dir, size*13/4); err != nil {
		return err
	}
	c := &archiveCase{m: m, image: m.path("image"), restic: restic}
	if err := c.begin(ctx, size); err != nil {
		return err
	}
	if err := c.first(ctx); err != nil {
		return err
	}
	for _, k := range []struct {
		name   string
		length int
		target float64
	}{{"1 % changed, in 16 places", int(size / 100 / 16), 5}, {"1 % changed, in 4 KiB at random", 4096, 2}} {
		if err := c.second(ctx, k.name, k.length, k.target); err != nil {
			return err
		}
	}
	return c.restores(ctx)
}

// roomFor refuses to fill the disk.
func roomFor(dir string, bytes int64) error {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return err
	}
	if free := int64(s.Bavail) * s.Bsize; free < bytes+4<<30 {
		return fmt.Errorf("%s has %d GiB free, and %d are needed: take less with BENCHTIME, or another TMPDIR", dir, free>>30, bytes>>30+4)
	}
	return nil
}

const archiveRounds = 3

// archiveCase is an image and what both programs keep of it. Both encrypt: restic always does.
type archiveCase struct {
	m      *measuring
	image  string
	restic string
	size   int64
}

func (c *archiveCase) begin(ctx context.Context, size int64) error {
	c.size = size
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.m.path("identity"), []byte(identity.String()), 0o600); err != nil {
		return err
	}
	return makeImage(ctx, c.image, size)
}

// repository is where a program keeps its points, and its cache.
func (c *archiveCase) repository(program, state string) string {
	return c.m.path(program + "-" + state)
}

// first archives the whole image. Later rounds begin with that.
func (c *archiveCase) first(ctx context.Context) error {
	ours, theirs := c.repository("farshore", "base"), c.repository("restic", "base")
	if _, err := c.theirs(ctx, theirs, "init"); err != nil {
		return err
	}
	if err := warm(c.image); err != nil {
		return err
	}
	took, err := c.ours(ctx, "archive-write", ours, c.image, "1", "")
	if err != nil {
		return err
	}
	restic, err := c.theirs(ctx, theirs, "backup", c.image)
	if err != nil {
		return err
	}
	stored, err := folderSize(filepath.Join(ours, "store"))
	if err != nil {
		return err
	}
	resticStored, err := folderSize(filepath.Join(theirs, "repository"))
	if err != nil {
		return err
	}
	c.m.result("first archive of the whole volume: rate to restic's", restic.took.Seconds()/took.took.Seconds(), "x", map[string]float64{
		"farshore s": took.took.Seconds(), "restic s": restic.took.Seconds(), "volume GiB": float64(c.size) / (1 << 30),
		"farshore stored GiB": float64(stored) / (1 << 30), "restic stored GiB": float64(resticStored) / (1 << 30),
		"farshore MiB resident": mib(took.memory), "restic MiB resident": mib(restic.memory),
	})
	return nil
}

// measureArchiveMemory archives and restores two volumes, one of which is eight times the other.
func measureArchiveMemory(ctx context.Context, m *measuring) error {
	var writing, reading []measured
	large := int64(8<<30*min(1, m.b.scale)) / (8 * grid.Chunk) * (8 * grid.Chunk)
	if err := roomFor(m.dir, large*5/2); err != nil {
		return err
	}
	for _, size := range []int64{large / 8, large} {
		c := &archiveCase{m: m, image: m.path("image")}
		if err := c.begin(ctx, size); err != nil {
			return err
		}
		repository, into := c.repository("farshore", strconv.FormatInt(size, 10)), m.path("restored")
		took, err := c.ours(ctx, "archive-write", repository, c.image, "1", "")
		if err != nil {
			return err
		}
		writing = append(writing, took)
		if took, err = c.ours(ctx, "archive-restore", repository, into, "0"); err != nil {
			return err
		}
		reading = append(reading, took)
		if err := os.Remove(into); err != nil {
			return err
		}
	}
	for _, x := range []struct {
		name string
		took []measured
	}{{"archiving", writing}, {"restoring", reading}} {
		small, whole := x.took[0], x.took[1]
		m.held("memory at the peak of "+x.name+", against that for an eighth of the volume", float64(whole.own)/float64(small.own), "x", atMost, 1.25, map[string]float64{
			"MiB": mib(whole.own), "MiB, an eighth": mib(small.own), "GiB of the volume": float64(large) / (1 << 30),
			"MiB with files": mib(whole.memory), "MiB with files, an eighth": mib(small.memory),
		})
	}
	return nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// second changes some of the image, archives it with both programs, and puts everything back, some times.
func (c *archiveCase) second(ctx context.Context, name string, length int, target float64) error {
	var ours, theirs, cpu, resticCPU, added, resticAdded []float64
	for round := range archiveRounds {
		undo, err := changeImage(c.image, c.size, c.size/100, length, uint64(round+1), c.m.path("changed"))
		if err != nil {
			return err
		}
		if err := warm(c.image); err != nil {
			return err
		}
		for i := range 2 {
			program := []string{"farshore", "restic"}[(round+i)%2]
			repository := c.repository(program, "now")
			if err := linkFolder(repository, c.repository(program, "base")); err != nil {
				return err
			}
			before, err := folderSize(repository)
			if err != nil {
				return err
			}
			var took measured
			if program == "farshore" {
				took, err = c.ours(ctx, "archive-write", repository, c.image, "2", c.m.path("changed"))
			} else {
				took, err = c.theirs(ctx, repository, "backup", c.image)
			}
			if err != nil {
				return err
			}
			after, err := folderSize(repository)
			if err != nil {
				return err
			}
			if program == "farshore" {
				ours, cpu, added = append(ours, took.took.Seconds()), append(cpu, took.cpu.Seconds()), append(added, mib(after-before))
			} else {
				theirs, resticCPU = append(theirs, took.took.Seconds()), append(resticCPU, took.cpu.Seconds())
				resticAdded = append(resticAdded, mib(after-before))
			}
		}
		if round == archiveRounds-1 && length == 4096 {
			break // what is restored is of this
		}
		if err := undo(); err != nil {
			return err
		}
	}
	c.m.held("archiving "+name+": rate to restic's second backup", median(ratios(theirs, ours)), "x", atLeast, target, map[string]float64{
		"farshore s": median(ours), "restic s": median(theirs), "farshore processor s": median(cpu), "restic processor s": median(resticCPU),
		"farshore added MiB": median(added), "restic added MiB": median(resticAdded),
	})
	return nil
}

// restores restores the newest point of both: until it is durable, and until it is in the page cache, where restic leaves it.
func (c *archiveCase) restores(ctx context.Context) error {
	ours, theirs := new(restored), new(restored)
	for round := range archiveRounds {
		for i := range 3 {
			way := []string{"durable", "restic", "cached"}[(round+i)%3]
			if err := c.restore(ctx, way, round == 0, ours, theirs); err != nil {
				return err
			}
		}
	}
	of := func(r, other []float64) map[string]float64 {
		return map[string]float64{"farshore s": median(r), "restic s": median(other)}
	}
	c.m.held("restore until it is durable: rate to restic's with a sync behind it", median(ratios(theirs.durable, ours.durable)), "x", atLeast, 1.5,
		of(ours.durable, theirs.durable))
	c.m.held("restore into the page cache: rate to restic's", median(ratios(theirs.cached, ours.cached)), "x", atLeast, 1.5, of(ours.cached, theirs.cached))
	c.m.result("processor time of a restore, to restic's", median(ratios(ours.cpu, theirs.cpu)), "x", map[string]float64{
		"farshore s": median(ours.cpu), "restic s": median(theirs.cpu), "farshore MiB resident": median(ours.memory), "restic MiB resident": median(theirs.memory),
	})
	return nil
}

// restored is what restores took, by round: seconds, and MiB.
type restored struct{ durable, cached, cpu, memory []float64 }

func (c *archiveCase) restore(ctx context.Context, way string, compare bool, ours, theirs *restored) error {
	program := "farshore"
	if way == "restic" {
		program = way
	}
	repository, into := c.repository(program, "now"), c.m.path("restored")
	if err := warm(repository); err != nil {
		return err
	}
	begun := time.Now()
	switch way {
	case "restic":
		took, err := c.theirs(ctx, repository, "restore", "latest", "--sparse", "--target", into)
		if err == nil {
			err = syncTree(into)
		}
		if err != nil {
			return err
		}
		theirs.cached, theirs.durable = append(theirs.cached, took.took.Seconds()), append(theirs.durable, time.Since(begun).Seconds())
		theirs.cpu, theirs.memory = append(theirs.cpu, took.cpu.Seconds()), append(theirs.memory, mib(took.memory))
	case "durable":
		took, err := c.ours(ctx, "archive-restore", repository, into, "1")
		if err != nil {
			return err
		}
		ours.durable = append(ours.durable, took.took.Seconds())
	default:
		took, err := c.ours(ctx, "archive-restore", repository, into, "0")
		if err != nil {
			return err
		}
		ours.cached = append(ours.cached, took.took.Seconds())
		ours.cpu, ours.memory = append(ours.cpu, took.cpu.Seconds()), append(ours.memory, mib(took.memory))
	}
	if compare {
		if err := sameContent(c.image, into); err != nil {
			return fmt.Errorf("%s restored something else: %w", program, err)
		}
	}
	return os.RemoveAll(into)
}

// ours runs a part of this program on an archive, in a process of its own.
func (c *archiveCase) ours(ctx context.Context, part, repository string, args ...string) (measured, error) {
	path, err := os.Executable()
	if err != nil {
		return measured{}, err
	}
	args = append([]string{path, part, filepath.Join(repository, "store"), filepath.Join(repository, "cache"), c.m.path("identity")}, args...)
	return runMeasured(ctx, nil, args...)
}

func (c *archiveCase) resticEnv(repository string) []string {
	return []string{
		"RESTIC_REPOSITORY=" + filepath.Join(repository, "repository"), "RESTIC_CACHE_DIR=" + filepath.Join(repository, "cache"),
		"RESTIC_PASSWORD=bench",
	}
}

func (c *archiveCase) theirs(ctx context.Context, repository string, args ...string) (measured, error) {
	return runMeasured(ctx, c.resticEnv(repository), append([]string{c.restic, "--quiet"}, args...)...)
}
