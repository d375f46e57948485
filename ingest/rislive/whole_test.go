package rislive

import "testing"

func TestWhole(t *testing.T) {
	tests := []struct {
		name string
		subs []Subscription
		want bool
	}{
		{"the default", DefaultConfiguration().Subscriptions, true},
		{"everything of every type", []Subscription{{}}, true},
		{"some collectors", []Subscription{{Host: "rrc00", Type: "UPDATE"}, {Host: "rrc01"}}, true},
		{"no updates", []Subscription{{Type: "RIS_PEER_STATE"}}, false},
		{"states of one peer beside all updates", []Subscription{{Type: "UPDATE"}, {Type: "RIS_PEER_STATE", Peer: "192.0.2.1"}}, true},
		{"one prefix", []Subscription{{Type: "UPDATE", Prefix: []string{"192.0.2.0/24"}}}, false},
		{"one collector whole, of another a peer", []Subscription{{Host: "rrc00"}, {Host: "rrc01", Peer: "192.0.2.1"}}, false},
		{"announcements", []Subscription{{Require: "announcements"}}, false},
		{"a path", []Subscription{{Path: "64500"}}, false},
	}
	for _, tt := range tests {
		if got := (Configuration{Subscriptions: tt.subs}).Whole(); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
