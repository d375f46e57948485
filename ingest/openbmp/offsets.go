package openbmp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// offsets is where to go on reading, by topic and partition, and the cluster that they are of: another
// cluster's mean nothing.
type offsets struct {
	Format  int                        `json:"format"` // 1
	Cluster string                     `json:"cluster"`
	Next    map[string]map[int32]int64 `json:"next"`
}

const (
	offsetsFormat   = 1
	maxOffsetsBytes = 256 << 20
)

func (o *offsets) set(at topicPartition, next int64) {
	if o.Next == nil {
		o.Next = map[string]map[int32]int64{}
	}
	if o.Next[at.topic] == nil {
		o.Next[at.topic] = map[int32]int64{}
	}
	o.Next[at.topic][at.partition] = next
}

// loadOffsets reads the file; there may be none. One that is damaged is renamed, and corrupt says why and what
// to.
func loadOffsets(file string) (o offsets, corrupt, err error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil, nil
	}
	if err != nil {
		return o, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxOffsetsBytes+1))
	f.Close()
	if err != nil {
		return o, nil, err
	}
	if corrupt = o.parse(data); corrupt == nil {
		return o, nil, nil
	}
	o = offsets{}
	aside := file + ".corrupt"
	if err := os.Rename(file, aside); err != nil {
		return o, nil, fmt.Errorf("%s cannot be used (%w) and not be set aside: %w", file, corrupt, err)
	}
	return o, fmt.Errorf("%s: %w; it is now %s", file, corrupt, aside), nil
}

func (o *offsets) parse(data []byte) error {
	if len(data) > maxOffsetsBytes {
		return fmt.Errorf("more than %d bytes", maxOffsetsBytes)
	}
	if err := json.Unmarshal(data, o); err != nil {
		return err
	}
	if o.Format != offsetsFormat {
		return fmt.Errorf("format %d; %d is known", o.Format, offsetsFormat)
	}
	for topic, partitions := range o.Next {
		for partition, next := range partitions {
			if partition < 0 || next < 0 {
				return fmt.Errorf("offset %d of partition %d of %q", next, partition, topic)
			}
		}
	}
	return nil
}

// store replaces the file as a whole.
func (o *offsets) store(file string) (err error) {
	o.Format = offsetsFormat
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	f, err := os.Create(file + ".tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	return err
}
