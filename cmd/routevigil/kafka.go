package main

import (
	"fmt"

	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
)

// KafkaCmd prepares a cluster.
type KafkaCmd struct {
	Init KafkaInitCmd `cmd:"" help:"Make the topics that are not there, and set those that are to what they should be."`
}

// KafkaInitCmd makes the topics of section kafka of the configuration.
type KafkaInitCmd struct{ ConfigFlag }

func (c KafkaInitCmd) Run(g *Globals) error {
	cfg, err := c.Load()
	if err != nil {
		return err
	}
	cluster, err := kafkabus.Connect(cfg.Kafka, g.Log)
	if err != nil {
		return &UsageError{err}
	}
	defer cluster.Close()
	return cluster.Init(g.Context, func(topic, what string) { fmt.Fprintf(g.Stdout, "%s: %s\n", topic, what) })
}
