package world

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Two servers of a cluster whose connections are cut find no way around the proxies between them, though the third
// knows both: servers tell each other where others are.
func TestServersThatAreCutFindNoWayAround(t *testing.T) {
	w, _, _ := start(t, Long)
	p := process(t, w, "nats-1")
	routes := fmt.Sprintf("http://127.0.0.1:%d/routez", p.Ports[1])
	knows := func(name string) bool { return strings.Contains(get(t, routes), `"remote_name": "`+name+`"`) }
	var since time.Time // they have been apart
	strikes(t, w, Step{Name: "cut", Target: "nats-1/nats-2"}, func() bool {
		if knows("nats-2") || !knows("nats-3") {
			since = time.Time{}
		} else if since.IsZero() {
			since = time.Now()
		}
		return !since.IsZero() && time.Since(since) > 2*time.Second // they try again each second
	})
}

func get(t *testing.T, url string) string {
	t.Helper()
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	response, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
