package firstboot

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/gotrove/gotrove/internal/durable"
)

// networkData is where the cloud says which cards the server has.
const networkData = "openstack/latest/network_data.json"

// managementFile goes before the image's own, which is for every card.
const managementFile = "etc/systemd/network/20-management.network"

// management settles which card answers go out by, where there are two: the last
// one is the management network's, and its way out counts only if there is no
// other. Clients of the database are answered by the card they came in by; the
// message bus is reached by the routes that the management network itself gives.
func (b *boot) management(ctx context.Context, from source) error {
	text, err := optional(ctx, from, networkData)
	if err != nil || text == nil {
		return err
	}
	var data struct {
		Links []struct {
			MAC string `json:"ethernet_mac_address"`
		} `json:"links"`
	}
	if err := json.Unmarshal(text, &data); err != nil {
		return fmt.Errorf("the cloud's network_data.json is malformed: %w", err)
	}
	if len(data.Links) < 2 {
		return nil
	}
	mac, err := net.ParseMAC(data.Links[len(data.Links)-1].MAC)
	if err != nil {
		return fmt.Errorf("the cloud's network_data.json: %w", err)
	}
	at := b.path(managementFile)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	network := fmt.Sprintf("[Match]\nMACAddress=%s\n\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=ipv6\n\n[DHCPv4]\nUseMTU=yes\nClientIdentifier=mac\nRouteMetric=4096\n", mac)
	if err := durable.WriteFile(at, []byte(network), 0o644); err != nil {
		return err
	}
	if b.o.Root != "/" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	// If it does not run yet, it finds the file when it does.
	_ = exec.CommandContext(ctx, "networkctl", "reload").Run()
	return nil
}
