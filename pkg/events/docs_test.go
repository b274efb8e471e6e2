package events

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func formatDocument(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "format.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// tableBehind returns the first two columns of the table that follows heading.
func tableBehind(t *testing.T, doc, heading string) [][2]string {
	t.Helper()
	_, rest, found := strings.Cut(doc, "\n"+heading+"\n")
	if !found {
		t.Errorf("docs/format.md: no %q", heading)
		return nil
	}
	var rows [][2]string
	for line := range strings.Lines(rest) {
		cells := strings.Split(line, "|")
		switch {
		case len(cells) > 3:
			rows = append(rows, [2]string{strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2])})
		case len(rows) > 0:
			return rows[2:] // behind the head and the rule
		}
	}
	return nil
}

// TestFormatIsDocumented: docs/format.md has a table for each structure, with its fields in the order of the wire.
func TestFormatIsDocumented(t *testing.T) {
	doc := formatDocument(t)
	tables := map[string]any{
		"Base:": Base{}, "Op:": Op{}, "Progress:": Progress{}, "ObjectKey:": ObjectKey{}, "ListedObject:": ListedObject{},
		"VectorEntry:": VectorEntry{}, "HookResult:": HookResult{}, "### Token": Token{}, "### Position": Position{},
	}
	for k := KindEpoch; k <= KindHooksOpen; k++ {
		tables[fmt.Sprintf("### %s (%d)", k, k)] = newBody(k)
		link := fmt.Sprintf("| [%s](#%s-%d) | %d |", k, strings.ToLower(k.String()), k, k)
		if !strings.Contains(doc, link) {
			t.Errorf("docs/format.md: the list of events lacks %q", link)
		}
	}
	for heading, v := range tables {
		typ := reflect.Indirect(reflect.ValueOf(v)).Type()
		rows := tableBehind(t, doc, heading)
		if len(rows) != typ.NumField() {
			t.Errorf("%s: %d rows for %d fields", heading, len(rows), typ.NumField())
			continue
		}
		for i, row := range rows {
			if want := [2]string{fmt.Sprint(i), typ.Field(i).Name}; row != want {
				t.Errorf("%s: row %v, want %v", heading, row, want)
			}
		}
	}
}

func TestLimitsAreDocumented(t *testing.T) {
	doc := formatDocument(t)
	for name, value := range map[string]int{
		"MaxMessage": MaxMessage, "MaxContent": MaxContent, "MaxOps": MaxOps, "MaxName": MaxName,
		"MaxText": MaxText, "MaxMembers": MaxMembers, "MaxRaw": MaxRaw, "MaxListed": MaxListed,
	} {
		row := regexp.MustCompile("\\| `" + name + "` \\| ([0-9,]+)").FindStringSubmatch(doc)
		if row == nil || strings.ReplaceAll(row[1], ",", "") != fmt.Sprint(value) {
			t.Errorf("docs/format.md: %s is given as %q, is %d", name, row, value)
		}
	}
}

// TestExampleIsGolden: the message taken apart at the end of docs/format.md is the golden one.
func TestExampleIsGolden(t *testing.T) {
	_, example, found := strings.Cut(formatDocument(t), "## An example")
	if !found {
		t.Fatal("no example")
	}
	block := strings.Split(example, "```")[1]
	var digits strings.Builder
	for line := range strings.Lines(block) {
		code, _, _ := strings.Cut(strings.TrimLeft(line, " "), "  ") // two spaces or more before the words
		digits.WriteString(strings.Join(strings.Fields(code), ""))
	}
	if want := hex.EncodeToString(readGolden(t, "frame")); digits.String() != want {
		t.Errorf("example is\n%s\nwant\n%s", digits.String(), want)
	}
}
