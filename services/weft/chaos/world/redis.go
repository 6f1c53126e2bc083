package world

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// dumpName is the file in which Redis saves, and from which it starts.
	dumpName = "dump.rdb"
	// dumpEvery is how often a copy is kept, dumpsKept how many: a minute's worth.
	dumpEvery = 5 * time.Second
	dumpsKept = 14
	// ageLeast and ageMost bound how old the copy is that is put back.
	ageLeast = 5 * time.Second
	ageMost  = 60 * time.Second
	// redisWait bounds one command, redisPoll is the pause between two that wait for Redis to answer.
	redisWait = 2 * time.Second
	redisPoll = 50 * time.Millisecond
)

// redis gives Redis one command, a line of words.
func (w *World) redis(ctx context.Context, command string) error {
	ctx, cancel := context.WithTimeout(ctx, redisWait)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", w.address("redis"))
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		return fmt.Errorf("redis: %s: %w", command, err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return fmt.Errorf("redis: %s: %w", command, err)
	}
	if answer = strings.TrimSpace(answer); strings.HasPrefix(answer, "-") {
		return fmt.Errorf("redis: %s: %s", command, answer)
	}
	return nil
}

func flushRedis(ctx context.Context, w *World, _ *Plan, _ Step) (undo, error) {
	return nil, w.redis(ctx, "FLUSHALL")
}

// pauseRedis makes Redis answer nobody for a time of its own: a command to end it would wait too.
func pauseRedis(ctx context.Context, w *World, _ *Plan, s Step) (undo, error) {
	if err := w.redis(ctx, fmt.Sprintf("CLIENT PAUSE %d ALL", s.For.Milliseconds())); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (string, error) {
		for {
			err := w.redis(ctx, "PING")
			if err == nil || !wait(ctx, redisPoll) {
				return "", err
			}
		}
	}, nil
}

func fillRedis(ctx context.Context, w *World, _ *Plan, _ Step) (undo, error) {
	for _, command := range []string{"CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1"} {
		if err := w.redis(ctx, command); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) (string, error) {
		return "", w.redis(ctx, "CONFIG SET maxmemory 0")
	}, nil
}

// oldRedis kills Redis and starts it with what it knew a while ago.
func oldRedis(_ context.Context, w *World, _ *Plan, s Step) (undo, error) {
	if dumps, err := w.dumps(); err != nil || len(dumps) == 0 {
		return nil, errors.Join(errors.New("there is no copy yet"), err)
	}
	release, err := w.kill("redis")
	if err != nil {
		return nil, err
	}
	return func(context.Context) (string, error) {
		defer release()
		return w.putBack(s.Age)
	}, nil
}

// dump is a copy of what Redis had.
type dump struct {
	file string
	age  time.Duration
}

// dumps are the copies, the oldest first.
func (w *World) dumps() ([]dump, error) {
	entries, err := os.ReadDir(w.dumpFolder())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var list []dump
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			list = append(list, dump{filepath.Join(w.dumpFolder(), e.Name()), time.Since(info.ModTime())})
		}
	}
	slices.SortFunc(list, func(a, b dump) int { return int(b.age - a.age) })
	return list, err
}

func (w *World) dumpFolder() string { return filepath.Join(w.o.Data, "dumps") }

// putBack puts the copy in place whose age is nearest to what is wanted. Redis is down.
func (w *World) putBack(age time.Duration) (string, error) {
	w.dumping.Lock()
	defer w.dumping.Unlock()
	list, err := w.dumps()
	if err != nil {
		return "", err
	}
	nearest := slices.MinFunc(list, func(a, b dump) int { return int((a.age - age).Abs() - (b.age - age).Abs()) })
	file := filepath.Join(w.o.Data, dumpName)
	if err := errors.Join(w.removeDump(), os.Link(nearest.file, file)); err != nil { // Redis replaces it and never writes to it
		return "", err
	}
	return fmt.Sprintf("a copy %.0f s old", nearest.age.Seconds()), nil
}

// keepDumps keeps copies of what Redis has, until ctx ends. While Redis does not answer there are none.
func (w *World) keepDumps(ctx context.Context) {
	for {
		_ = w.keepDump(ctx) // Redis is down or has no memory at times, which is our doing
		if !wait(ctx, dumpEvery) {
			return
		}
	}
}

func (w *World) keepDump(ctx context.Context) error {
	w.dumping.Lock()
	defer w.dumping.Unlock()
	if err := os.MkdirAll(w.dumpFolder(), 0o700); err != nil {
		return err
	}
	if err := w.redis(ctx, "SAVE"); err != nil {
		return err
	}
	name := fmt.Sprintf("%012d.rdb", w.o.Log.Now())
	if err := os.Rename(filepath.Join(w.o.Data, dumpName), filepath.Join(w.dumpFolder(), name)); err != nil {
		return err
	}
	list, err := w.dumps()
	for ; len(list) > dumpsKept; list = list[1:] {
		_ = os.Remove(list[0].file)
	}
	return err
}
