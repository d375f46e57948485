package bgpsession

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDefaultIsValidAndOff(t *testing.T) {
	c := DefaultConfiguration()
	if err := c.Validate(); err != nil || len(c.Listen) != 0 {
		t.Errorf("%v, listening on %v", err, c.Listen)
	}
}

func TestValidate(t *testing.T) {
	c := Configuration{
		Listen: []string{"127.0.0.1", ":", ":179"}, HoldTime: 2 * time.Second, RouterID: netip.MustParseAddr("::1"),
		Neighbours: []Neighbour{
			{Address: "router"},
			{Address: "10.0.0.1/8", LocalASN: 1},
			{Address: "192.0.2.1", LocalASN: 1, Password: "a", PasswordFile: "b", HoldTime: 3500 * time.Millisecond},
			{Address: "192.0.2.1/32", LocalASN: 1, TTLSecurity: 255, Role: "customers", MaxPrefixes: -1, MaxSessions: -1},
			{Address: "192.0.2.0/24", LocalASN: 1, Password: Password(strings.Repeat("x", 81))},
			{Address: "192.0.2.9", LocalASN: 1},
			{Address: "fe80::1%eth0", LocalASN: 1},
		},
	}
	want := strings.Split(`listen[0]: "127.0.0.1" is not host:port, such as "192.0.2.1:179" or ":179"
listen[1]: ":" is not host:port, such as "192.0.2.1:179" or ":179"
name: must not be empty
router_id: must be written as an IPv4 address other than 0.0.0.0
handshake_timeout: must be positive, is 0s
hold_time: must be 0 or whole seconds from 3s to 65535s, is 2s
neighbours[0].address: "router" is neither an address nor a prefix
neighbours[0].local_asn: must be set here or for all neighbours
neighbours[1].address: "10.0.0.1/8" has bits beyond its length; write "10.0.0.0/8"
neighbours[2].hold_time: must be 0 or whole seconds from 3s to 65535s, is 3.5s
neighbours[2].password_file: set this or password, not both
neighbours[3].address: 192.0.2.1/32 is configured twice
neighbours[3].ttl_security: must be from 0 to 254, is 255
neighbours[3].role: "customers" is not provider, rs, rs-client, customer or peer
neighbours[3].max_prefixes: must not be negative, is -1
neighbours[3].max_sessions: must not be negative, is -1
neighbours[4].password: has 81 octets; 80 is the most
neighbours[6].address: "fe80::1%eth0" is neither an address nor a prefix
neighbours[5].password: must be set, because the prefix 192.0.2.0/24 around 192.0.2.9 has one`, "\n")
	err := c.Validate()
	if err == nil {
		t.Fatal("it is valid")
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	c = configuration()
	c.Listen = nil
	if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), "listen: ") {
		t.Errorf("neighbours without an address to listen on: %v", err)
	}
	c = configuration()
	c.Neighbours = nil
	if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), "neighbours: ") {
		t.Errorf("no neighbours: %v", err)
	}
}

func TestPasswordIsNeverShown(t *testing.T) {
	n := Neighbour{Address: "192.0.2.1", Password: "hunter2"}
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "password", n.Password, "neighbour", n)
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "password", n.Password, "neighbour", n)
	marshalled, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s %q %d %x", n, n, n, n.Password, n.Password, n.Password, n.Password) + logged.String() + string(marshalled)
	if strings.Contains(all, "hunter2") || !strings.Contains(all, "<secret>") {
		t.Error(all)
	}
}
