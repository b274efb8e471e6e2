// Package human writes numbers the way people read them.
package human

import (
	"fmt"
	"math"
	"time"
)

// Bytes writes n bytes with a binary unit: 0 B, 1.5 KiB, 270 MiB.
func Bytes(n int64) string {
	if n < 0 {
		return "-" + Bytes(-n)
	}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), 0
	const units = "KMGTPE"
	for v /= 1024; v >= 1023.95 && unit < len(units)-1; unit++ {
		v /= 1024
	}
	if v >= 99.95 {
		return fmt.Sprintf("%.0f %ciB", v, units[unit])
	}
	return fmt.Sprintf("%.1f %ciB", v, units[unit])
}

// Rate writes bytes per second.
func Rate(perSecond float64) string {
	if math.IsNaN(perSecond) || math.IsInf(perSecond, 0) || perSecond < 0 {
		return "-"
	}
	return Bytes(int64(perSecond)) + "/s"
}

// Duration writes d with about three digits: 0 s, 850 µs, 12.3 ms, 1.24 s, 3m20s, 2h05m, 3d04h.
func Duration(d time.Duration) string {
	if d < 0 {
		return "-" + Duration(-d)
	}
	switch {
	case d == 0:
		return "0 s"
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", d)
	case d < time.Millisecond:
		return digits(float64(d)/float64(time.Microsecond), "µs")
	case d < time.Second:
		return digits(float64(d)/float64(time.Millisecond), "ms")
	case d < time.Minute:
		return digits(d.Seconds(), "s")
	}
	d = d.Round(time.Second)
	h, m, s := int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case h == 0:
		return fmt.Sprintf("%dm%02ds", m, s)
	case h < 24:
		return fmt.Sprintf("%dh%02dm", h, m)
	}
	return fmt.Sprintf("%dd%02dh", h/24, h%24)
}

// Seconds is Duration for a number of seconds.
func Seconds(s float64) string { return Duration(time.Duration(s * float64(time.Second))) }

// Count writes n with a separator between thousands: 12,345.
func Count(n int64) string {
	if n < 0 {
		return "-" + Count(-n)
	}
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func digits(v float64, unit string) string {
	switch {
	case v >= 99.5:
		return fmt.Sprintf("%.0f %s", v, unit)
	case v >= 9.95:
		return fmt.Sprintf("%.1f %s", v, unit)
	}
	return fmt.Sprintf("%.2f %s", v, unit)
}
