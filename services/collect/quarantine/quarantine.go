// Package quarantine is the form of a message that could not be processed: how collect sets it aside, and how operators
// find it again with every byte that it came with.
package quarantine

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// Headers of a quarantined message. Its own headers are there too, each with OriginalPrefix before its name: among
// them may be some that mean something to JetStream. Where the prefixes would make it larger than the server takes (64 KiB
// of headers, and fabric's room for what is ours), its data is the block of its headers (`Name: value` and a line break
// each), HeaderBlock bytes long, followed by its payload.
const (
	HeaderReason   = "Weft-Reason"  // the code
	HeaderDetail   = "Weft-Detail"  // the sentence
	HeaderSubject  = "Weft-Subject" // the subject it came on
	HeaderField    = "Weft-Field"   // the header that was wrong
	HeaderBlock    = "Weft-Original-Header-Bytes"
	OriginalPrefix = "Weft-Original-"

	// prefixedLines and prefixedBytes bound headers with prefix.
	prefixedLines = 500
	prefixedBytes = 48 << 10
)

// Pack is a message's headers and payload as they lie in quarantine; the caller adds the reason to the headers.
func Pack(original nats.Header, payload []byte) (nats.Header, []byte) {
	packed := nats.Header{}
	if prefixable(original) {
		for name, values := range original {
			packed[OriginalPrefix+name] = values
		}
		return packed, payload
	}
	block := headersOf(original)
	packed.Set(HeaderBlock, strconv.Itoa(len(block)))
	return packed, append(block, payload...)
}

// Unpack is the reverse of Pack. The payload is a part of data.
func Unpack(packed nats.Header, data []byte) (original nats.Header, payload []byte, err error) {
	original = nats.Header{}
	if length := packed.Get(HeaderBlock); length != "" {
		n, err := BlockSize(packed)
		if err != nil || n > len(data) {
			return nil, nil, fmt.Errorf("quarantine: %s: %q is not the size of the headers before %d bytes", HeaderBlock, length, len(data))
		}
		for line := range bytes.SplitAfterSeq(data[:n], []byte("\r\n")) {
			if name, value, ok := strings.Cut(strings.TrimSuffix(string(line), "\r\n"), ": "); ok {
				original[name] = append(original[name], value)
			}
		}
		return original, data[n:], nil
	}
	for name, values := range packed {
		if name, ok := strings.CutPrefix(name, OriginalPrefix); ok {
			original[name] = values
		}
	}
	return original, data, nil
}

// BlockSize is how many bytes of the data are headers.
func BlockSize(packed nats.Header) (int, error) {
	length := packed.Get(HeaderBlock)
	if length == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(length, 10, 31)
	return int(n), err
}

// prefixable says whether there is room for a prefix before each header.
func prefixable(h nats.Header) bool {
	lines, size := 0, 0
	for name, values := range h {
		lines += len(values)
		for _, value := range values {
			size += len(OriginalPrefix) + len(name) + len(value) + len(": \r\n")
		}
	}
	return lines <= prefixedLines && size <= prefixedBytes
}

func headersOf(h nats.Header) []byte {
	var block []byte
	for name, values := range h {
		for _, value := range values {
			block = append(append(append(block, name...), ": "...), value...)
			block = append(block, "\r\n"...)
		}
	}
	return block
}
