package clickhouse

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	api "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
)

// peers gives each peer the number that stands for it in updates. There are thousands at most, so all are in memory.
type peers struct {
	ids map[ingest.Peer]uint32
	all []ingest.Peer // by number
}

func (s *Store) loadPeers(ctx context.Context) (peers, error) {
	known := peers{ids: make(map[ingest.Peer]uint32)}
	err := s.rows(ctx, func(r api.Rows) error {
		var id uint32
		var p ingest.Peer
		var address string
		var view uint8
		if err := r.Scan(&id, &p.Collector, &address, &p.ASN, &view); err != nil {
			return err
		}
		p.View = ingest.View(view)
		if address != "" {
			var err error
			if p.Addr, err = netip.ParseAddr(address); err != nil {
				return err
			}
		}
		if int(id) != len(known.all) {
			return fmt.Errorf("there is no peer %d; restore the database from a copy, or choose another one", len(known.all))
		}
		known.ids[p] = id
		known.all = append(known.all, p)
		return nil
	}, `SELECT id, collector, address, asn, view FROM peers ORDER BY id, epoch DESC LIMIT 1 BY id`)
	return known, err
}

// peer returns the peer with that number.
func (s *Store) peer(id uint32) (ingest.Peer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if int(id) >= len(s.peers.all) {
		return ingest.Peer{}, false
	}
	return s.peers.all[id], true
}

// peersLike lists the numbers of those that q asks for.
func (s *Store) peersLike(q *store.UpdateQuery) (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, p := range s.peers.all {
		if (q.PeerASN == 0 || p.ASN == q.PeerASN) && (!q.PeerIP.IsValid() || p.Addr == q.PeerIP) && (q.Collector == "" || p.Collector == q.Collector) {
			ids = append(ids, strconv.Itoa(id))
		}
	}
	return ids
}

// peerCondition is what q asks of the peer, if it does, and whether there is none like that.
func (s *Store) peerCondition(q *store.UpdateQuery) (where []string, none bool) {
	if q.PeerASN == 0 && !q.PeerIP.IsValid() && q.Collector == "" {
		return nil, false
	}
	ids := s.peersLike(q)
	return []string{"peer IN (" + strings.Join(ids, ",") + ")"}, len(ids) == 0
}

// savePeers stores those that are new, before the first row that says their number. The caller holds expanding.
func (s *Store) savePeers(ctx context.Context, first uint32, list []ingest.Peer) error {
	if len(list) == 0 {
		return nil
	}
	epoch := s.current().epoch
	err := s.attempt(ctx, func(ctx context.Context) error {
		return s.insert(ctx, `INSERT INTO peers (id, epoch, collector, address, asn, view)`, func(b api.Batch) error {
			for i, p := range list {
				address := ""
				if p.Addr.IsValid() {
					address = p.Addr.String()
				}
				if err := b.Append(first+uint32(i), epoch, p.Collector, address, p.ASN, uint8(p.View)); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range list {
		s.peers.ids[p] = first + uint32(i)
	}
	s.peers.all = append(s.peers.all[:first:first], list...)
	return nil
}
