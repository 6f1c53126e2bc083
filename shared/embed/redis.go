package embed

import (
	"fmt"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// redisTick is how coarse the embedded Redis sees time. miniredis expires nothing by itself; its own mode that does
// walks all keys at each command (300 commands/s at 10,000 keys), this ticker serves 50,000 to 100,000 reads/s.
const redisTick = 250 * time.Millisecond

// RedisOptions says how to run a Redis.
type RedisOptions struct {
	Port int // 0 for any free one
}

// RedisServer is a running Redis. Its data is gone with it: Redis is only a cache for Weft.
type RedisServer struct {
	mini *miniredis.Miniredis
	stop chan struct{}
	done sync.WaitGroup // the clock
}

// Redis starts a Redis on 127.0.0.1 whose keys expire within redisTick of their time.
func Redis(o RedisOptions) (*RedisServer, error) {
	s := &RedisServer{mini: miniredis.NewMiniRedis(), stop: make(chan struct{})}
	if err := s.mini.StartAddr(fmt.Sprintf("127.0.0.1:%d", o.Port)); err != nil {
		return nil, fmt.Errorf("start Redis on 127.0.0.1:%d: %w", o.Port, err)
	}
	s.done.Go(s.clock)
	return s, nil
}

// Addr is host:port, where clients connect.
func (s *RedisServer) Addr() string { return s.mini.Addr() }

// Stop ends the server and returns when all of it has ended.
func (s *RedisServer) Stop() {
	close(s.stop)
	s.done.Wait()
	s.mini.Close()
}

// clock moves the server's time by what has really passed: a ticker drops ticks when the process is paused.
func (s *RedisServer) clock() {
	ticker := time.NewTicker(redisTick)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
			now := time.Now()
			s.mini.FastForward(now.Sub(last))
			last = now
		}
	}
}
