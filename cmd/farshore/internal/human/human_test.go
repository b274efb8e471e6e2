package human_test

import (
	"math"
	"testing"
	"time"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
)

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 102400: "100 KiB", 1<<20 - 1: "1.0 MiB",
		64 << 20: "64.0 MiB", 270 << 20: "270 MiB", 1 << 40: "1.0 TiB", -2048: "-2.0 KiB", math.MaxInt64: "8.0 EiB",
	} {
		if got := human.Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 12: "12 ns", 850 * time.Microsecond: "850 µs", 1234 * time.Microsecond: "1.23 ms", 12300 * time.Microsecond: "12.3 ms",
		1240 * time.Millisecond: "1.24 s", 59 * time.Second: "59.0 s", 200 * time.Second: "3m20s",
		125 * time.Minute: "2h05m", 76 * time.Hour: "3d04h", -time.Second: "-1.00 s",
	} {
		if got := human.Duration(d); got != want {
			t.Errorf("Duration(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestRateAndCount(t *testing.T) {
	if got := human.Rate(1 << 20); got != "1.0 MiB/s" {
		t.Errorf("Rate = %q", got)
	}
	for _, v := range []float64{math.NaN(), math.Inf(1), -1} {
		if got := human.Rate(v); got != "-" {
			t.Errorf("Rate(%v) = %q, want -", v, got)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000"} {
		if got := human.Count(n); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
}
