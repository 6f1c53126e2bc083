package route

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/weftpush/weft/shared/subject"
)

// Claim is a session that believes to have a device.
type Claim struct {
	User   subject.Address
	Device string
	Holder string // as Connection.Holder
	Write  bool   // enter the holder where nobody is entered; false only looks
}

// hold looks who has a device, and enters a holder where nobody has it. KEYS: devices. ARGV: device, holder, TTL in ms.
const hold = `
local have = redis.call('HGET', KEYS[1], ARGV[1])
if have then return have end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return ARGV[2]`

// Hold returns who has the device of each claim, in their order; empty is nobody. What Redis lost is entered again for
// claims that may write; another's entry always stays. After an error any of it may be done.
func (t *Table) Hold(ctx context.Context, claims []Claim) ([]string, error) {
	holders := make([]string, 0, len(claims))
	for part := range slices.Chunk(claims, chunk) {
		answers := make([]*redis.Cmd, len(part))
		err := t.pipeline(ctx, func(p redis.Pipeliner) {
			for i, c := range part {
				key := t.key(c.User, "devices")
				if c.Write {
					answers[i] = p.Eval(ctx, hold, []string{key}, c.Device, c.Holder, deviceTTL.Milliseconds())
				} else {
					answers[i] = p.Do(ctx, "HGET", key, c.Device)
				}
			}
		})
		if err != nil {
			return nil, fmt.Errorf("route: look up %d devices: %w", len(claims), err)
		}
		for _, answer := range answers {
			holder, _ := answer.Text() // absent: nobody has it
			holders = append(holders, holder)
		}
	}
	return holders, nil
}
