package load

import (
	"encoding/json"
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"strconv"
	"strings"
)

const (
	// sumMark stands before the checksum, which is the last member: 16 hexadecimal digits over all bytes before the mark.
	sumMark = `,"sum":"`
	sumEnd  = len(sumMark) + 16 + len(`"}`)
	// The sizes of padding, in bytes: mostly small, and one in largeOdds large.
	padLeast, padMost = 0, 4 << 10
	padLarge          = 60 << 10 // a payload may have 64 KiB
	largeOdds         = 1000
	// breakOdds: one in so many payloads has a line break in it, and so travels as data64.
	breakOdds = 16
)

var (
	sumTable = crc64.MakeTable(crc64.ECMA) //nolint:gochecknoglobals // a constant in all but Go's word for it
	// padding is cut at random places. It has what breaks careless copying: escapes, several bytes to a letter, marks of
	// the wire's own.
	padding = strings.Repeat(`abcdefghijklmnopqrstuvwxyz 0123456789 \",\"data\": {\u00fc}&<> `, 1+2*padLarge/60) //nolint:gochecknoglobals // a constant, too
)

// payload is what a message says of itself.
type payload struct {
	Writer  string `json:"w"`
	To      string `json:"to"`
	Counter uint64 `json:"n"`
}

// encode makes the payload with some padding and its checksum. It is JSON, but its very bytes count.
func (p *payload) encode(random *rand.Rand) []byte {
	size := padLeast + random.IntN(padMost-padLeast)
	if random.IntN(4) > 0 {
		size /= 16 // most messages of real systems are small
	}
	if random.IntN(largeOdds) == 0 {
		size = padLarge
	}
	b := make([]byte, 0, size+128)
	b = append(b, '{')
	if random.IntN(breakOdds) == 0 {
		b = append(b, '\n')
	}
	b = append(b, `"w":`...)
	b = strconv.AppendQuote(b, p.Writer)
	b = append(b, `,"to":`...)
	b = strconv.AppendQuote(b, p.To)
	b = append(b, `,"n":`...)
	b = strconv.AppendUint(b, p.Counter, 10)
	b = append(b, `,"pad":"`...)
	b = append(b, pad(size, random)...)
	b = append(b, '"')
	sum := crc64.Checksum(b, sumTable)
	return fmt.Appendf(append(b, sumMark...), `%016x"}`, sum)
}

// pad cuts a piece that is about so long and does not begin or end inside of an escape.
func pad(size int, random *rand.Rand) string {
	const period = len(`abcdefghijklmnopqrstuvwxyz 0123456789 \",\"data\": {\u00fc}&<> `)
	const plain = len(`abcdefghijklmnopqrstuvwxyz 0123456789 `) // what has no escape in it
	from := random.IntN(plain)
	to := from + size
	if over := to % period; over > plain {
		to -= over - plain
	}
	return padding[from:max(from, to)]
}

// read reads a payload. It is sound if no byte of it was changed.
func read(data []byte) (p payload, sound bool) {
	err := json.Unmarshal(data, &p)
	cut := len(data) - sumEnd
	if err != nil || cut < 0 || string(data[cut:cut+len(sumMark)]) != sumMark {
		return p, false
	}
	sum := fmt.Sprintf(`%016x"}`, crc64.Checksum(data[:cut], sumTable))
	return p, string(data[cut+len(sumMark):]) == sum
}
