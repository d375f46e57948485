package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
)

// topics are all that there have to be.
func (k *Cluster) topics(replication int) []kafka.TopicConfig {
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	synced := "1"
	if replication >= 3 {
		synced = "2"
	}
	topic := func(name string, partitions int, settings ...kafka.ConfigEntry) kafka.TopicConfig {
		settings = append(settings, kafka.ConfigEntry{ConfigName: "min.insync.replicas", ConfigValue: synced},
			kafka.ConfigEntry{ConfigName: "max.message.bytes", ConfigValue: strconv.Itoa(maxMessage)},
			kafka.ConfigEntry{ConfigName: "compression.type", ConfigValue: "producer"},
			kafka.ConfigEntry{ConfigName: "unclean.leader.election.enable", ConfigValue: "false"})
		return kafka.TopicConfig{Topic: k.c.Prefix + name, NumPartitions: partitions, ReplicationFactor: replication, ConfigEntries: settings}
	}
	set := func(name, value string) kafka.ConfigEntry {
		return kafka.ConfigEntry{ConfigName: name, ConfigValue: value}
	}
	return []kafka.TopicConfig{
		topic(updatesTopic, k.c.Partitions, set("cleanup.policy", "delete"), set("retention.ms", ms(k.c.Retention)), set("retention.bytes", "-1")),
		topic(orderTopic, 1, set("cleanup.policy", "delete"), set("retention.ms", ms(k.c.Retention+k.c.Retention/4)), set("retention.bytes", "-1")),
		// Every change of an incident stays for a week, for recorders that come late, and then the last one.
		topic(IncidentsTopic, 1, set("cleanup.policy", "compact"), set("min.compaction.lag.ms", ms(7*24*time.Hour))),
		// What became of alerts, for longer than they are tried.
		topic(AlertsTopic, 1, set("cleanup.policy", "delete"), set("retention.ms", ms(14*24*time.Hour))),
		// The last states of the detector, whatever their age.
		topic(StateTopic, 1, set("cleanup.policy", "delete"), set("retention.ms", "-1"), set("retention.bytes", strconv.Itoa(4<<30)), set("segment.bytes", strconv.Itoa(256<<20))),
	}
}

// Init makes the topics that are not there, and gives those that are the settings that they should have. say
// is told of each.
func (k *Cluster) Init(ctx context.Context, say func(topic, what string)) error {
	ctx, cancel := context.WithTimeout(ctx, 6*k.c.Timeout)
	defer cancel()
	m, err := k.client.Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		return fmt.Errorf("kafka: %v: %w", k.c.Brokers, err)
	}
	replication := k.c.Replication
	if replication == 0 {
		replication = min(3, len(m.Brokers))
	}
	have := map[string]int{}
	for _, t := range m.Topics {
		if t.Error == nil {
			have[t.Name] = len(t.Partitions)
		}
	}
	topics := k.topics(replication)
	if o := k.c.OpenBMP; o.Topic != "" {
		t := topics[0] // as that of the updates
		t.Topic, t.NumPartitions = o.Topic, o.Partitions
		topics = append(topics, t)
	}
	for _, t := range topics {
		partitions, there := have[t.Topic]
		if !there {
			a, err := k.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{t}})
			if err == nil {
				err = a.Errors[t.Topic]
			}
			if err == nil {
				say(t.Topic, fmt.Sprintf("made, with %d partitions in %d copies", t.NumPartitions, replication))
				continue
			}
			if !errors.Is(err, kafka.TopicAlreadyExists) {
				return fmt.Errorf("kafka: making topic %s: %w", t.Topic, err)
			}
		} else if partitions != t.NumPartitions {
			key, other := "kafka.partitions", "another kafka.prefix"
			if t.Topic == k.c.OpenBMP.Topic {
				key, other = "kafka.openbmp.partitions", "another kafka.openbmp.topic"
			}
			return fmt.Errorf("kafka: topic %s has %d partitions where %d are wanted; that cannot be changed: set %s to %d, or use %s",
				t.Topic, partitions, t.NumPartitions, key, partitions, other)
		}
		r := kafka.IncrementalAlterConfigsRequestResource{ResourceType: kafka.ResourceTypeTopic, ResourceName: t.Topic}
		for _, e := range t.ConfigEntries {
			r.Configs = append(r.Configs, kafka.IncrementalAlterConfigsRequestConfig{Name: e.ConfigName, Value: e.ConfigValue, ConfigOperation: kafka.ConfigOperationSet})
		}
		a, err := k.client.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{Resources: []kafka.IncrementalAlterConfigsRequestResource{r}})
		if err == nil {
			for _, one := range a.Resources {
				err = errors.Join(err, one.Error)
			}
		}
		if err != nil {
			return fmt.Errorf("kafka: settings of topic %s: %w", t.Topic, err)
		}
		say(t.Topic, "is there; its settings are as they should be")
	}
	return nil
}
