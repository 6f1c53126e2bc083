package mongodb_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// few are the collections that hold a handful of documents: what is asked of them may look at all.
var few = []string{"facts", "nodes", "marks"}

// declared is an index by its keys, and the field that a document must have as true to be in it.
type declared struct {
	keys []string
	only string
}

// question is what a command asks of a collection.
type question struct {
	collection string
	filter     bson.D
	sort       bson.D
}

// librarian listens at a wire to the indexes that are declared, and to what is asked. FerretDB has no use for indexes, and
// refuses some: what counts is what a MongoDB would find.
type librarian struct {
	mu      sync.Mutex // protects the rest
	indexes map[string][]declared
	asked   map[string]question // by its shape, one of each
}

func newLibrarian() *librarian {
	return &librarian{indexes: map[string][]declared{}, asked: map[string]question{}}
}

// listen is a meddle that only listens.
func (l *librarian) listen(c command) change {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch c.name {
	case "createIndexes":
		l.declare(c)
	case "find":
		l.ask(question{c.collection, document(c.body, "filter"), document(c.body, "sort")})
	case "aggregate":
		stages, _ := c.body.Lookup("pipeline").Array().Values()
		l.ask(question{c.collection, document(stages[0].Document(), "$match"), nil})
	case "update", "delete":
		for _, one := range append(c.batch, inBody(c)...) {
			l.ask(question{c.collection, document(one, "q"), nil})
		}
	}
	return nil
}

// inBody are updates or deletes that the driver put into the body.
func inBody(c command) (batch []bson.Raw) {
	list, ok := c.body.Lookup(c.name + "s").ArrayOK()
	if !ok {
		return nil
	}
	values, _ := list.Values()
	for _, v := range values {
		batch = append(batch, v.Document())
	}
	return batch
}

func document(in bson.Raw, key string) (d bson.D) {
	if raw, ok := in.Lookup(key).DocumentOK(); ok {
		_ = bson.Unmarshal(raw, &d) // a driver wrote it
	}
	return d
}

func (l *librarian) declare(c command) {
	list, _ := c.body.Lookup("indexes").Array().Values()
	for _, v := range list {
		var i declared
		for _, e := range document(v.Document(), "key") {
			i.keys = append(i.keys, e.Key)
		}
		for _, e := range document(v.Document(), "partialFilterExpression") {
			i.only = e.Key
		}
		l.indexes[c.collection] = append(l.indexes[c.collection], i)
	}
}

func (l *librarian) ask(q question) {
	shape := q.collection + " " + strings.Join(fields(q.filter), ",") + " sorted by " + strings.Join(fields(q.sort), ",")
	l.asked[shape] = q
}

// fields are the keys of a document, with those of its alternatives.
func fields(d bson.D) (keys []string) {
	for _, e := range d {
		keys = append(keys, e.Key)
		if list, ok := e.Value.(bson.A); ok && e.Key == "$or" {
			keys = append(keys, fields(list[0].(bson.D))...)
		}
	}
	return keys
}

// expect says which questions make MongoDB look at a whole collection, or sort what it found.
func (l *librarian) expect(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.asked) == 0 {
		t.Error("nothing was asked")
	}
	for shape, q := range l.asked {
		if !slices.Contains(few, q.collection) && !l.covered(q) {
			t.Errorf("no index has %s", shape)
		}
	}
}

func (l *librarian) covered(q question) bool {
	if slices.ContainsFunc(append(l.indexes[q.collection], declared{keys: []string{"_id"}}), q.by) {
		return true
	}
	for i, e := range q.filter {
		list, ok := e.Value.(bson.A)
		if !ok || e.Key != "$or" {
			continue
		}
		rest := slices.Delete(slices.Clone(q.filter), i, i+1)
		return !slices.ContainsFunc(list, func(one any) bool {
			return !l.covered(question{q.collection, append(slices.Clone(rest), one.(bson.D)...), q.sort})
		})
	}
	return false
}

// by says whether an index finds what is asked for in the order that is asked for: its first key is asked for, or the order
// is its own; and what comes before the order's keys in it has one value.
func (q question) by(i declared) bool {
	one, some := map[string]bool{}, map[string]bool{}
	for _, e := range q.filter {
		_, within := e.Value.(bson.D)
		one[e.Key], some[e.Key] = !within, true
	}
	if i.only != "" && !one[i.only] {
		return false
	}
	keys := i.keys
	for len(keys) > 0 && one[keys[0]] && (len(q.sort) == 0 || q.sort[0].Key != keys[0]) {
		keys = keys[1:]
	}
	for n, s := range q.sort {
		if n >= len(keys) || keys[n] != s.Key || fmt.Sprint(s.Value) != fmt.Sprint(q.sort[0].Value) {
			return false
		}
	}
	return some[i.keys[0]] || len(q.sort) > 0
}
