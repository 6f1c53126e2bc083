package verdict

import "math/bits"

const (
	fine   = 5                   // bits of a value that are told apart below its highest: buckets are 3 % wide
	values = (65 - fine) << fine // buckets
)

// histogram counts times, so that the percentiles of millions cost some KB.
type histogram struct {
	counts [values]int
	n      int
	most   int64
}

// add counts a time of 0 or more.
func (h *histogram) add(us int64) {
	h.counts[bucket(uint64(us))]++ //nolint:gosec // not negative
	h.n++
	h.most = max(h.most, us)
}

// bucket numbers values: each below 2^fine has its own, and above that each power of two has 2^fine of them.
func bucket(v uint64) int {
	if v < 1<<fine {
		return int(v)
	}
	shift := bits.Len64(v) - fine - 1
	return shift<<fine + int(v>>shift) //nolint:gosec // below 2^(fine+1)
}

// ceiling is the highest value of a bucket.
func ceiling(n int) int64 {
	if n < 1<<(fine+1) {
		return int64(n)
	}
	shift := n>>fine - 1
	return (int64(n-shift<<fine)+1)<<shift - 1
}

// percentile is the value that so many percent do not exceed; 0 if nothing was counted.
func (h *histogram) percentile(percent int) int64 {
	below := 0
	for n, count := range h.counts {
		if below += count; below > 0 && below*100 >= h.n*percent {
			return min(ceiling(n), h.most)
		}
	}
	return 0
}

func (h *histogram) sum() Latency {
	return Latency{Count: h.n, P50: h.percentile(50), P99: h.percentile(99), Most: h.most}
}
