package partition

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weftpush/weft/shared/fabric"
)

// Owners returns, for each stage, the instance that has each partition, as the bucket says now: empty where nobody has it,
// or nobody alive. A heartbeat is there for some seconds after its instance died.
func Owners(ctx context.Context, js jetstream.JetStream, partitions int, stages ...string) (map[string][]string, error) {
	bucket, err := js.KeyValue(ctx, fabric.OwnersBucket)
	if err != nil {
		return nil, fmt.Errorf("partition: owners: %w", err)
	}
	alive := map[string]bool{} // by key
	look := func(key string) (string, error) {
		entry, err := bucket.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("partition: owners: %s: %w", key, err)
		}
		return string(entry.Value()), nil
	}
	owners := make(map[string][]string, len(stages))
	for _, stage := range stages {
		list := make([]string, partitions)
		for p := range list {
			owner, err := look(fabric.LeaseKey(stage, p))
			if err != nil {
				return nil, err
			}
			if owner == "" {
				continue
			}
			key := fabric.AliveKey(stage, owner)
			lives, asked := alive[key]
			if !asked {
				beat, err := look(key)
				if err != nil {
					return nil, err
				}
				lives = beat != ""
				alive[key] = lives
			}
			if lives {
				list[p] = owner
			}
		}
		owners[stage] = list
	}
	return owners, nil
}
