package e2e

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftpush/weft/services/auth"
	"github.com/weftpush/weft/services/weft/local"
	"github.com/weftpush/weft/shared/message"
	"github.com/weftpush/weft/shared/protocol"
)

// The section "Quick starts" of README.md, as it stands there: every way to receive is started on a fabric of its own,
// every way to publish is used, and what was received must be what a WebSocket that is none of ours' clients received.
//
// Three things are changed in a block before it runs: the ports of `weft dev`, which are free ones here; and a token
// where the text shows how one begins. A block of Go gets a package clause and the imports of what it names, as an
// editor would add them. `weft` is the program that the tests have built; it finds the fabric as it does for anybody, in
// the folder .weft.

// quickstart is one block.
type quickstart struct {
	name, language, text string
}

// most is how many lines a block may have.
const most = 10

// orders find the numbers of orders in what a receiver has printed.
var orders = map[string]func(string) []int{
	"receive-weft": inJSON, "receive-go": inJSON, "receive-sse": inJSON, "receive-grpc": inBase64,
	"receive-browser": inWords, "receive-react": onPage,
}

var (
	jsonOrder  = regexp.MustCompile(`"order": ?(\d+)`)
	wordOrder  = regexp.MustCompile(`Order (\d+)`)
	base64Data = regexp.MustCompile(`"data": "([\w+/=]+)"`)
)

func inJSON(text string) []int  { return numbers(jsonOrder, text) }
func inWords(text string) []int { return numbers(wordOrder, text) }

// inBase64 looks into bytes as JSON shows those of protobuf.
func inBase64(text string) []int {
	var data strings.Builder
	for _, match := range base64Data.FindAllStringSubmatch(text, -1) {
		decoded, err := base64.StdEncoding.DecodeString(match[1])
		if err != nil {
			return nil
		}
		data.Write(decoded)
	}
	return inJSON(data.String())
}

// onPage looks at the page as it was last.
func onPage(text string) []int { return inWords(text[strings.LastIndex(text, "page:")+1:]) }

func numbers(pattern *regexp.Regexp, text string) []int {
	var list []int
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		n, _ := strconv.Atoi(match[1])
		list = append(list, n)
	}
	return list
}

func TestQuickStarts(t *testing.T) {
	publishers, receivers, acknowledge := sorted(t, quickstarts(t))
	for _, receiver := range receivers {
		t.Run(receiver.name, func(t *testing.T) {
			d := sitDown(t)
			observer := d.f.device("alice", "observer", protocol.FromClient{})
			heard := d.start(receiver)
			var published []int
			for _, publisher := range publishers {
				d.finish(publisher)
				for range strings.Count(publisher.text, `"order":`) {
					published = append(published, inJSON(observer.message(uint64(len(published)+1)).data())...)
				}
			}
			observer.silent()
			text := heard.until(t, func(text string) bool { return len(orders[receiver.name](text)) >= len(published) })
			if got := orders[receiver.name](text); !slices.Equal(got, published) {
				t.Errorf("%v were published, and %s received %v:\n%s", published, receiver.name, got, text)
			}
			if receiver.name == "receive-sse" {
				d.acknowledge(acknowledge)
			}
		})
	}
}

// quickstarts are the blocks of the section. Each fence has a comment before it that names the block.
func quickstarts(t *testing.T) []quickstart {
	t.Helper()
	page, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "\n## Quick starts\n")
	if !ok {
		t.Fatal("README.md has no section Quick starts")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	fences := regexp.MustCompile("(?m)^```\\w").FindAllString(section, -1)
	named := regexp.MustCompile("(?ms)^<!-- quickstart: ([\\w-]+) -->\n```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(section, -1)
	if len(fences) != len(named) {
		t.Errorf("the section has %d blocks, of which %d have a comment `<!-- quickstart: name -->` right before", len(fences), len(named))
	}
	var blocks []quickstart
	for _, match := range named {
		blocks = append(blocks, quickstart{match[1], match[2], match[3]})
	}
	return blocks
}

// sorted divides the blocks into ways to publish and ways to receive, and reports those that the test can't run.
func sorted(t *testing.T, blocks []quickstart) (publishers, receivers []quickstart, acknowledge quickstart) {
	t.Helper()
	seen := map[string]bool{}
	for _, b := range blocks {
		if lines := strings.Count(b.text, "\n"); lines > most {
			t.Errorf("%s has %d lines; the most is %d", b.name, lines, most)
		}
		if seen[b.name] || runners[b.language] == nil && b.name != wire {
			t.Errorf("no test runs %s, in %s", b.name, b.language)
			continue
		}
		seen[b.name] = true
		switch {
		case strings.HasPrefix(b.name, "publish-") && strings.Contains(b.text, `"order":`):
			publishers = append(publishers, b)
		case orders[b.name] != nil:
			receivers = append(receivers, b)
		case b.name == "acknowledge":
			acknowledge = b
		case b.name == wire:
		default:
			t.Errorf("no test runs %s", b.name)
		}
	}
	for name := range orders {
		if !seen[name] {
			t.Errorf("README.md has no block %s", name)
		}
	}
	if len(publishers) == 0 || len(receivers) == 0 || acknowledge.text == "" {
		t.Fatalf("%d ways to publish, %d to receive, to acknowledge %q", len(publishers), len(receivers), acknowledge.text)
	}
	return publishers, receivers, acknowledge
}

// wire is the block that shows the protocol itself: what a client says behind →, what it hears behind ←.
const wire = "wire"

// TestQuickStartWire says and hears it, word by word; … stands for what differs.
func TestQuickStartWire(t *testing.T) {
	blocks := quickstarts(t)
	at := slices.IndexFunc(blocks, func(b quickstart) bool { return b.name == wire })
	if at < 0 {
		t.Fatal("README.md does not show the wire")
	}
	desk := sitDown(t)
	publish(t, desk.f.connect(), "weft.in.default.user.alice", `{"order":1}`, nats.Header{message.HeaderID: {"order-1"}, message.HeaderType: {"order.paid"}})
	client := desk.f.dial(desk.token)
	for line := range strings.Lines(blocks[at].text) {
		line = strings.TrimSpace(line)
		if said, ok := strings.CutPrefix(line, "→ "); ok {
			client.say(json.RawMessage(said))
			continue
		}
		wanted, ok := strings.CutPrefix(line, "← ")
		if !ok {
			t.Fatalf("%s: who says that?", line)
		}
		pattern := strings.ReplaceAll(regexp.QuoteMeta(wanted), "…", ".*")
		if o := client.next(); !regexp.MustCompile("^" + pattern + "$").Match(o.raw) {
			t.Errorf("%s came instead of %s", o.raw, wanted)
		}
	}
	client.silent()
}

// TestTheLinesToCopy runs what `weft dev` prints for a newcomer to copy: each way to receive, and every way to publish.
func TestTheLinesToCopy(t *testing.T) {
	lines, _ := printedLines(t, sitDown(t))
	for i := range lines {
		t.Run(strings.Fields(lines[i])[0], func(t *testing.T) {
			d := sitDown(t)
			receivers, publishers := printedLines(t, d)
			heard := d.start(quickstart{"receive", "sh", receivers[i]})
			for _, line := range publishers {
				d.finish(quickstart{"publish", "sh", line})
			}
			came := func(text string) int { return strings.Count(text, `{"hello":1}`) }
			text := heard.until(t, func(text string) bool { return came(text) >= len(publishers) })
			if came(text) != len(publishers) {
				t.Errorf("%d were published, and %s received\n%s", len(publishers), receivers[i], text)
			}
		})
	}
}

// printedLines are the lines to copy in what `weft dev` prints.
func printedLines(t *testing.T, d *desk) (receive, publish []string) {
	t.Helper()
	keys, err := auth.LoadKeys(d.f.manifest.Keys)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := local.Welcome(&out, d.f.manifest, keys[0], time.Now()); err != nil {
		t.Fatal(err)
	}
	under := func(heading string) []string {
		_, rest, _ := strings.Cut(out.String(), heading+":\n")
		var lines []string
		for line := range strings.Lines(rest) {
			if !strings.HasPrefix(line, "    ") {
				break
			}
			lines = append(lines, strings.TrimSpace(line))
		}
		if len(lines) < 2 {
			t.Fatalf("it prints %q under %q", lines, heading)
		}
		return lines
	}
	return under("receive as alice"), under("publish to her")
}
