package sites

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/journal"
)

// Who lacks a certificate, a key, or the right site is not let in, and neither is plain text.
func TestOutsidersAreRefused(t *testing.T) {
	p := startPair(t)
	stranger := newAuthority(t, t.TempDir(), "stranger")
	for name, change := range map[string]func(*journal.Options){
		"no certificate":               func(o *journal.Options) { o.CertFile, o.KeyFile = "", "" },
		"another authority's":          func(o *journal.Options) { id := stranger.issue("x"); o.CertFile, o.KeyFile = id.cert, id.key },
		"no key":                       func(o *journal.Options) { o.NKeySeedFile = "" },
		"an unknown key":               func(o *journal.Options) { o.NKeySeedFile = newUser(t, t.TempDir(), "x").file },
		"the other site's key":         func(o *journal.Options) { o.NKeySeedFile = p.users["applier"].file },
		"the leafnode's key":           func(o *journal.Options) { o.NKeySeedFile = p.users["leaf"].file },
		"a server that isn't trusted":  func(o *journal.Options) { o.CAFile = stranger.file },
		"plain text, with a right key": func(o *journal.Options) { o.CAFile, o.CertFile, o.KeyFile = "", "", ""; o.URL = "nats" + o.URL[3:] },
	} {
		t.Run(name, func(t *testing.T) {
			o := p.options("primary", "capturer")
			change(&o)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if s, err := journal.Connect(ctx, o); err == nil {
				s.Close()
				t.Error("was let in")
			}
		})
	}
	p.connect(t, "primary", "capturer") // and who has everything is let in
}

// A DR site with a key that the primary doesn't know gets no leafnode.
func TestLeafWithUnknownKeyIsRefused(t *testing.T) {
	p := preparePair(t)
	p.start(t, "primary")
	p.variables["dr"]["FARSHORE_NATS_LEAF_SEED"] = newUser(t, p.dir, "stranger").seed
	p.start(t, "dr")
	applier := p.connect(t, "dr", "applier")
	// Long enough for several attempts of the leafnode, which are a second apart.
	attempts := time.NewTimer(3 * time.Second)
	defer attempts.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-attempts.C:
			waiting = false
		case <-tick.C:
			if streams, err := applier.PeerStreams(t.Context(), "shop"); err == nil {
				t.Fatalf("the primary answered: %v", streams)
			}
		}
	}
	p.variables["dr"]["FARSHORE_NATS_LEAF_SEED"] = p.users["leaf"].seed
	p.restart(t, "dr")
	eventually(t, 20*time.Second, "the primary answers the right key", func() error {
		_, err := applier.PeerStreams(t.Context(), "shop")
		return err
	})
}

// raw is a connection whose refused permissions can be waited for.
type raw struct {
	*nats.Conn
	refused chan error
}

func (p *pair) raw(t *testing.T, site, role string) raw {
	t.Helper()
	o := p.options(site, role)
	nkey, err := nats.NkeyOptionFromSeed(o.NKeySeedFile)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	r := raw{refused: make(chan error, 1)}
	r.Conn, err = nats.Connect(o.URL, nkey, nats.RootCAs(o.CAFile),
		nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			select {
			case r.refused <- err:
			default:
			}
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// outcome tells whether what was done on the connection was refused.
func (r raw) outcome(t *testing.T) error {
	t.Helper()
	if err := r.FlushTimeout(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-r.refused: // sent before the flush's answer, handled beside it
		return err
	case <-time.After(100 * time.Millisecond):
		return nil
	}
}

// Each role is confined to its own work. What it may do is in TestRolesCanWork and TestPipeline.
func TestRolesAreConfined(t *testing.T) {
	p := startPair(t)
	for _, tt := range []struct {
		site, role, publish, subscribe string
	}{
		{"primary", "capturer",
			"fs.shop.control.g1 fsctl.shop.mark fsctl.shop.clock fsctl.shop.tap.orders fsctl.shop.repair.orders fsctl.shop.answer.x fsmirror.shop.orders.g1.m1 " +
				"$JS.API.STREAM.DELETE.KV_farshore-generations $JS.API.STREAM.PURGE.KV_farshore-generations $JS.API.STREAM.UPDATE.KV_farshore-generations $JS.API.STREAM.MSG.DELETE.FS_shop_orders_g1 " +
				"$JS.API.STREAM.DELETE.KV_farshore-objects $JS.API.STREAM.UPDATE.KV_farshore-objects " +
				"$JS.API.CONSUMER.CREATE.FS_shop_ledger_g1.reader.fs.shop.ledger.g1 $JS.API.CONSUMER.CREATE.FS_shop_ledger_g1 $JS.API.CONSUMER.DURABLE.CREATE.FS_shop_ledger_g1.reader " +
				"$JS.API.CONSUMER.MSG.NEXT.FS_shop_ledger_g1.dr_m1 $JS.API.CONSUMER.DELETE.FS_shop_ledger_g1.dr_m1 $JS.FC.FS_shop_ledger_g1.dr_m1.x " +
				"$KV.farshore-generations.shop.control $KV.another.shop _INBOX.x",
			"fs.> fs.shop.ledger.g1 fsctl.shop.announce fsctl.shop.mark fsctl.shop.recovery fsctl.> fsmirror.> $JS.API.> $KV.> >"},
		{"primary", "snapshotter",
			"fs.shop.orders.g1 fs.shop.objects.g1 fsctl.shop.announce fsctl.shop.mark fsctl.shop.repair.orders fsctl.shop.answer.x fsmirror.shop.orders.g1.m1 $JS.API.STREAM.DELETE.KV_farshore-generations " +
				"$JS.API.STREAM.PURGE.KV_farshore-generations $JS.API.STREAM.UPDATE.KV_farshore-generations $KV.farshore-generations.shop.orders $KV.farshore-objects.shop.g1 _INBOX.x",
			"fs.> fsctl.shop.tap.orders fsctl.shop.repair.orders fsctl.shop.recovery fsmirror.> $JS.API.> >"},
		{"primary", "operator",
			"fs.shop.orders.g1 fs.shop.control.g1 fsctl.shop.announce fsctl.shop.tap.orders fsctl.shop.recovery fsctl.shop.release fsctl.shop.answer.x $JS.API.STREAM.CREATE.x $JS.API.STREAM.DELETE.FS_shop_orders_g1 " +
				"$JS.API.STREAM.PURGE.FS_shop_orders_g1 $JS.API.STREAM.MSG.GET.FS_shop_orders_g1 $JS.API.CONSUMER.CREATE.FS_shop_orders_g1.reader $KV.farshore-generations.shop.orders",
			"fs.> fsctl.> fsmirror.> >"},
		{"dr", "applier",
			"fs.shop.orders.g1 fs.shop.control.g1 fsctl.shop.announce fsctl.shop.mark fsctl.shop.recovery fsctl.shop.answer.x $JS.API.STREAM.DELETE.KV_farshore-status $JS.API.STREAM.UPDATE.FS_shop_orders_g1_m1 " +
				"$JS.primary.API.STREAM.CREATE.x $JS.primary.API.STREAM.DELETE.FS_shop_orders_g1 $JS.primary.API.STREAM.PURGE.FS_shop_orders_g1 $JS.primary.API.STREAM.MSG.GET.FS_shop_orders_g1 $JS.primary.API.CONSUMER.RESET.FS_shop_orders_g1.dr_m1",
			"fs.> fsctl.> fsctl.shop.repair.orders fsmirror.> $JSC.> >"},
		{"dr", "operator",
			"fs.shop.orders.g1 fsctl.shop.announce fsctl.shop.recovery fsctl.shop.answer.x $KV.farshore-status.shop $KV.farshore-status.shop.release $KV.farshore-leases.shop $JS.API.STREAM.CREATE.x $JS.API.STREAM.DELETE.FS_shop_orders_g1_m1 $JS.API.STREAM.PURGE.FS_shop_orders_g1_m1 " +
				"$JS.primary.API.STREAM.PURGE.FS_shop_orders_g1",
			"fs.> fsctl.> fsmirror.> >"},
	} {
		t.Run(tt.site+" "+tt.role, func(t *testing.T) {
			c := p.raw(t, tt.site, tt.role)
			for subject := range strings.FieldsSeq(tt.publish) {
				if err := c.Publish(subject, nil); err != nil {
					t.Fatal(err)
				}
				if err := c.outcome(t); !errors.Is(err, nats.ErrPermissionViolation) {
					t.Errorf("could publish to %s (%v)", subject, err)
				}
			}
			for subject := range strings.FieldsSeq(tt.subscribe) {
				if _, err := c.SubscribeSync(subject); err != nil {
					t.Fatal(err)
				}
				if err := c.outcome(t); !errors.Is(err, nats.ErrPermissionViolation) {
					t.Errorf("could subscribe to %s (%v)", subject, err)
				}
			}
		})
	}
}

// A primary that was superseded and doesn't know it must not write into the streams that the DR
// site took over: data subjects end at the leafnode.
func TestDataDoesNotCrossTheLeaf(t *testing.T) {
	p := startPair(t)
	applier, capturer := p.connect(t, "dr", "applier"), p.raw(t, "primary", "capturer")
	promoted, err := applier.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "FS_shop_orders_g1_m1", Subjects: []string{"fs.shop.orders.g1"}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the leafnode is up", func() error {
		_, err := applier.PeerStreams(t.Context(), "shop")
		return err
	})
	_, err = capturer.Request("fs.shop.orders.g1", []byte("stale"), 5*time.Second)
	if !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("the stale primary's message met with %v, want no responders", err)
	}
	info, err := promoted.Info(t.Context())
	if err != nil || info.State.LastSeq != 0 {
		t.Errorf("the promoted stream has %d messages, %v", info.State.LastSeq, err)
	}
}
