package replay_test

import (
	"os"
	"testing"

	"github.com/farshore/farshore/pkg/journal/journaltest"
)

func TestMain(m *testing.M) { os.Exit(journaltest.Main(m)) }
