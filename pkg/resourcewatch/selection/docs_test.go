package selection

import (
	"os"
	"strings"
	"testing"
)

// What is left out without a document saying so is documented, each rule in its own words.
func TestDocsNameEveryRule(t *testing.T) {
	text, err := os.ReadFile("../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range Defaults() {
		if !strings.Contains(string(text), "\n- "+r.What+"\n") {
			t.Errorf("docs/configuration.md doesn't list the rule %s: %s", r.Name, r.What)
		}
	}
}
