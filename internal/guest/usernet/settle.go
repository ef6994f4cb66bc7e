package usernet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/trove"
)

// networkFile comes before those of the image and of cloud-init.
const networkFile = "etc/systemd/network/05-trove-user.network"

const (
	// cardWait bounds how long a card may take to appear.
	cardWait = 30 * time.Second
	lookNext = 200 * time.Millisecond
)

// Settle keeps the machine itself off the user's network, for which it must be
// root: the card is up, has no address and will get none, so that the machine
// has no route there, whatever range that network has. p nil: the machine is on
// that network as on any other, and what was written for another is gone. root is
// the file system's; / but in tests.
func Settle(ctx context.Context, root string, p *Port) error {
	at := filepath.Join(root, networkFile)
	if p == nil {
		err := os.Remove(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return durable.Explain(err)
		}
		return reload(ctx, root)
	}
	text := fmt.Sprintf("# The card of the database's container: the machine has no address there.\n"+
		"[Match]\nMACAddress=%s\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nDHCP=no\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n", p.MAC)
	if before, err := os.ReadFile(at); err != nil || string(before) != text {
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return durable.Explain(err)
		}
		if err := durable.WriteFile(at, []byte(text), 0o644); err != nil {
			return durable.Explain(err)
		}
		if err := reload(ctx, root); err != nil {
			return err
		}
	}
	return p.bare(ctx)
}

// reload tells systemd-networkd, if it runs; if not, it finds the file when it
// does, or the image has another network manager, which is not to configure this
// card.
func reload(ctx context.Context, root string) error {
	if root != "/" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, cardWait)
	defer cancel()
	_ = exec.CommandContext(ctx, "networkctl", "reload").Run() // see above
	return ctx.Err()
}

// bare takes from the card what it has been given and brings it up. It waits for a
// card that is not there yet, or gets its name just now.
func (p *Port) bare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cardWait)
	defer cancel()
	for {
		card, err := p.Card()
		if err == nil {
			if err = strip(ctx, card); err == nil {
				return nil
			}
		}
		t := time.NewTimer(lookNext)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

func strip(ctx context.Context, card string) error {
	// Where the kernel has no IPv6 there is no such file.
	err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", card, "disable_ipv6"), []byte("1"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return trove.Errorf(trove.KindInternal, "the user's card: %w", err)
	}
	for _, args := range [][]string{{"address", "flush", "dev", card}, {"link", "set", "dev", card, "up"}} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return trove.Errorf(trove.KindInternal, "the user's card: ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
