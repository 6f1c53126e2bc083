package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/weftpush/weft/shared/message"
)

// document is nats/asyncapi.yaml, what it refers to resolved where the tests look at it.
type document struct {
	t    *testing.T
	root map[string]any
}

func readDocument(t *testing.T) *document {
	t.Helper()
	text, err := os.ReadFile("../../../nats/asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var parsed any
	if err := yaml.Unmarshal(text, &parsed); err != nil {
		t.Fatal(err)
	}
	// As JSON it is what the schema library wants, and a key that is no string would show.
	asJSON, err := json.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	root, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	return &document{t: t, root: root.(map[string]any)}
}

// at is what stands at a path of the document; every `$ref` on the way is followed.
func (d *document) at(path ...string) map[string]any {
	d.t.Helper()
	here := d.root
	for _, key := range path {
		next, ok := here[key].(map[string]any)
		if !ok {
			d.t.Fatalf("asyncapi.yaml has nothing at %s", strings.Join(path, "/"))
		}
		here = d.follow(next)
	}
	return here
}

func (d *document) follow(node map[string]any) map[string]any {
	d.t.Helper()
	if ref, ok := node["$ref"].(string); ok {
		return d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
	return node
}

// names are the keys of what stands at a path, sorted.
func (d *document) names(path ...string) []string {
	d.t.Helper()
	return slices.Sorted(maps.Keys(d.at(path...)))
}

// schema compiles what stands at a path, as the JSON schema (draft 7) that AsyncAPI takes it for.
func (d *document) schema(path ...string) *jsonschema.Schema {
	d.t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	c.AssertContent()
	if err := c.AddResource("asyncapi.json", d.root); err != nil {
		d.t.Fatal(err)
	}
	s, err := c.Compile("asyncapi.json#/" + strings.Join(path, "/"))
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// example is one of a message's examples.
type example struct {
	Name    string            `json:"name"`
	Headers map[string]string `json:"headers"`
	Payload json.RawMessage   `json:"payload"`
}

func (d *document) examples(message string) []example {
	d.t.Helper()
	text, err := json.Marshal(d.at("components", "messages", message)["examples"])
	if err != nil {
		d.t.Fatal(err)
	}
	var list []example
	if err := json.Unmarshal(text, &list); err != nil || len(list) == 0 {
		d.t.Fatalf("the examples of %s: %v (%d)", message, err, len(list))
	}
	return list
}

// judge reports what is wrong with headers and payload of a message. A payload that is not JSON has to be looked at by
// whoever sent it.
func (d *document) judge(message string, headers map[string]string, payload []byte) {
	d.t.Helper()
	path := []string{"components", "messages", message}
	if _, declared := d.at(path...)["headers"]; declared {
		named := map[string]any{}
		for name, value := range headers {
			named[name] = value
		}
		if err := d.schema(append(path, "headers")...).Validate(named); err != nil {
			d.t.Errorf("the headers %v of %s are not as asyncapi.yaml says: %v", headers, message, err)
		}
	} else if len(headers) > 0 {
		d.t.Errorf("%s has headers %v, of which asyncapi.yaml says nothing", message, headers)
	}
	if payload == nil {
		return
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(payload))
	if err == nil {
		err = d.schema(append(path, "payload")...).Validate(value)
	}
	if err != nil {
		d.t.Errorf("%s is no %s as asyncapi.yaml describes it: %v", payload, message, err)
	}
}

func TestAsyncAPIExamplesAreWhatTheirSchemasSay(t *testing.T) {
	d := readDocument(t)
	for _, name := range d.names("components", "messages") {
		for _, e := range d.examples(name) {
			d.judge(name, e.Headers, e.Payload)
		}
	}
	var binary []byte
	archived := d.examples("archived")[0]
	if err := json.Unmarshal(archived.Payload, &binary); err != nil {
		t.Fatal(err)
	}
	entries, err := message.DecodeEntries(binary)
	if err != nil || len(entries) != 1 || archived.Headers["Nats-Msg-Id"] != fmt.Sprintf("%s/%d", entries[0].To.Tokens(), entries[0].From) {
		t.Errorf("the example of the log is %+v, %v, with the headers %v", entries, err, archived.Headers)
	}
}

// A page that validates may still lead nowhere: a reference to what is not there, a message that no operation has, a
// parameter that its address does not.
func TestAsyncAPIHoldsTogether(t *testing.T) {
	d := readDocument(t)
	used := map[string]bool{}
	var walk func(any)
	walk = func(node any) {
		switch node := node.(type) {
		case map[string]any:
			if ref, ok := node["$ref"].(string); ok {
				used[ref] = true
				d.follow(node)
			}
			for _, child := range node {
				walk(child)
			}
		case []any:
			for _, child := range node {
				walk(child)
			}
		}
	}
	walk(d.root)
	for _, part := range []string{"messages", "schemas", "parameters", "securitySchemes"} {
		for _, name := range d.names("components", part) {
			if !used["#/components/"+part+"/"+name] {
				t.Errorf("components/%s/%s is used by nothing", part, name)
			}
		}
	}
	for _, channel := range d.names("channels") {
		c := d.at("channels", channel)
		address, _ := c["address"].(string)
		var parameters []string
		for _, match := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(address, -1) {
			parameters = append(parameters, match[1])
		}
		var declared []string
		if c["parameters"] != nil {
			declared = d.names("channels", channel, "parameters")
		}
		slices.Sort(parameters)
		if !slices.Equal(parameters, declared) {
			t.Errorf("the channel %s has the address %s and the parameters %v", channel, address, declared)
		}
		for _, name := range d.names("channels", channel, "messages") {
			if !used["#/channels/"+channel+"/messages/"+name] {
				t.Errorf("no operation has the message %s of the channel %s", name, channel)
			}
		}
	}
}
