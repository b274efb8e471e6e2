package selection

import (
	"os"
	"strings"
	"testing"
)

func TestRulesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range Defaults() {
		if !strings.Contains(string(text), "\n- "+r.What+"\n") {
			t.Errorf("docs/configuration.md doesn't list: %s", r.What)
		}
	}
}
