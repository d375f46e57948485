package kafkabus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bus/wire"
)

const (
	// roundSize is when a round is closed before its batch ends: octets of one of its frames, uncompressed.
	roundSize = 512 << 10
	// giveUp bounds how long a round is tried. It is less than abandonAfter, so that what was acknowledged is
	// never taken for abandoned.
	giveUp = 5 * time.Minute
)

// Writer writes rounds. It belongs to one goroutine.
type Writer struct {
	k         *Cluster
	id, round uint64
	watermark ingest.Time // of the last round
	parts     []wire.Encoder
	index     uint64
	list      []byte
	split     []routes

	rounds, updates, refused, octets prometheus.Counter
}

// routes are those of an update that fall into one partition.
type routes struct{ withdrawn, announced []bgp.NLRI }

// NewWriter returns a writer whose rounds are told from all others'. The topics must be there
// ([Cluster.Check]). reg may be nil.
func (k *Cluster) NewWriter(reg prometheus.Registerer) *Writer {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	w := &Writer{k: k, id: randomID(), parts: make([]wire.Encoder, k.partitions), split: make([]routes, k.partitions),
		rounds:  counter("routevigil_kafka_rounds_written_total", "Rounds that all partitions have acknowledged."),
		updates: counter("routevigil_kafka_updates_written_total", "Updates in those rounds."),
		refused: counter("routevigil_kafka_updates_refused_total", "Updates dropped because they cannot be encoded."),
		octets:  counter("routevigil_kafka_bytes_written_total", "Size of those rounds before compression."),
	}
	if reg != nil {
		reg.MustRegister(w.rounds, w.updates, w.refused, w.octets)
	}
	return w
}

// Write returns when the brokers have stored b; it is a round, or several when it is large. It tries again
// for as long as minutes while they do not answer. After an error the writer must not be used any more, and
// what of b was stored is unknown.
func (w *Writer) Write(ctx context.Context, b *ingest.Batch) error {
	signs := b.Signs
	sign := func(upTo int) {
		for ; len(signs) > 0 && signs[0].Before <= upTo; signs = signs[1:] {
			w.parts[0].AddSign(w.index, signs[0].Source, signs[0].Collectors)
		}
	}
	for i := range b.Updates {
		sign(i)
		if err := w.add(&b.Updates[i]); err != nil {
			w.refused.Inc()
			w.k.log.Warn("an update cannot be encoded and is dropped", "peer", b.Updates[i].Peer, "error", err)
		}
		for p := range w.parts {
			if w.parts[p].Size() >= roundSize {
				if err := w.flush(ctx, w.watermark); err != nil {
					return err
				}
				break
			}
		}
	}
	sign(len(b.Updates))
	return w.flush(ctx, max(w.watermark, b.Watermark))
}

func (w *Writer) add(u *ingest.Update) error {
	var err error
	switch {
	case everywhere(u):
		for p := range w.parts {
			if err := w.parts[p].Add(w.index, u, nil, nil, nil); err != nil {
				return err
			}
		}
		w.index++
		return nil
	case len(u.Announced) > 0:
		if w.list, err = bgp.AppendRIBAttributes(w.list[:0], &u.Attrs); err != nil {
			return err
		}
	}
	for _, l := range [2][]bgp.NLRI{u.Withdrawn, u.Announced} {
		for _, r := range l {
			if !r.Prefix.IsValid() {
				return fmt.Errorf("%v is not a prefix", r.Prefix)
			}
		}
	}
	if len(u.Withdrawn)+len(u.Announced) == 1 {
		p := 0
		if len(u.Withdrawn) > 0 {
			p = wire.Partition(u.Withdrawn[0].Prefix, len(w.parts))
		} else {
			p = wire.Partition(u.Announced[0].Prefix, len(w.parts))
		}
		err = w.parts[p].Add(w.index, u, u.Withdrawn, u.Announced, w.list)
		w.index++
		return err
	}
	for p := range w.split {
		w.split[p].withdrawn, w.split[p].announced = w.split[p].withdrawn[:0], w.split[p].announced[:0]
	}
	for _, r := range u.Withdrawn {
		s := &w.split[wire.Partition(r.Prefix, len(w.parts))]
		s.withdrawn = append(s.withdrawn, r)
	}
	for _, r := range u.Announced {
		s := &w.split[wire.Partition(r.Prefix, len(w.parts))]
		s.announced = append(s.announced, r)
	}
	for p := range w.split {
		if s := &w.split[p]; len(s.withdrawn)+len(s.announced) > 0 {
			if err := w.parts[p].Add(w.index, u, s.withdrawn, s.announced, w.list); err != nil {
				return err
			}
		}
	}
	w.index++
	return nil
}

// everywhere reports whether an update is in all partitions, as what concerns all routes of a peer is.
func everywhere(u *ingest.Update) bool {
	return u.Kind == ingest.PeerUp || u.Kind == ingest.PeerDown || u.EndOfRIB != 0
}

// flush ends the round.
func (w *Writer) flush(ctx context.Context, watermark ingest.Time) error {
	ctx, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	w.round++
	h := wire.Header{Writer: w.id, Round: w.round, Watermark: watermark}
	errs := make([]error, len(w.parts))
	var wg sync.WaitGroup
	for p := range w.parts {
		// The frame's memory is never used again: a request that timed out may still be about to be sent.
		frame := w.parts[p].AppendTo(make([]byte, 0, w.parts[p].Size()+64), h)
		w.octets.Add(float64(len(frame)))
		w.parts[p].Reset()
		wg.Go(func() {
			_, errs[p] = w.k.Insist(ctx, updatesTopic, p, Record{Value: frame})
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("round %d: %w", w.round, err)
		}
	}
	w.rounds.Inc()
	w.updates.Add(float64(w.index))
	w.index, w.watermark = 0, watermark
	return nil
}
