package load

import "sync"

// owed is which messages some device has yet to get. A writer begins and ends each of its operations; a device marks
// what it got, as often as it gets it.
type owed struct {
	mu       sync.Mutex       // protects everything below
	messages map[string]*debt // by id
	devices  map[string][]int // by address: the numbers of its devices
	absent   map[int]bool     // devices that are away on purpose
	owing    int              // messages that some device has yet to get
}

// debt is one message.
type debt struct {
	left  map[int]struct{} // numbers of the devices that have yet to get it
	ended bool             // the writer knows the result; what is got after that and owed to nobody is forgotten
}

func newOwed() *owed {
	return &owed{messages: make(map[string]*debt), devices: make(map[string][]int), absent: make(map[int]bool)}
}

// add makes a device one that gets the messages of an address, before the first is sent.
func (o *owed) add(address string, device int) {
	o.devices[address] = append(o.devices[address], device)
}

// begin notes that a message is being sent.
func (o *owed) begin(id, address string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := &debt{left: make(map[int]struct{}, len(o.devices[address]))}
	for _, device := range o.devices[address] {
		d.left[device] = struct{}{}
	}
	o.messages[id] = d
	if len(d.left) > 0 {
		o.owing++
	}
}

// end notes the result. What was not acknowledged is owed to nobody, although it may come.
func (o *owed) end(id string, acknowledged bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.messages[id]
	switch {
	case len(d.left) == 0:
		delete(o.messages, id)
	case !acknowledged:
		o.owing--
		delete(o.messages, id)
	default:
		d.ended = true
	}
}

// got notes that a device has a message.
func (o *owed) got(id string, device int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.messages[id]
	if d == nil {
		return
	}
	if _, owes := d.left[device]; !owes {
		return
	}
	if delete(d.left, device); len(d.left) == 0 {
		o.owing--
		if d.ended {
			delete(o.messages, id)
		}
	}
}

// leave notes that a device is away on purpose, or back.
func (o *owed) leave(device int, away bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if away {
		o.absent[device] = true
	} else {
		delete(o.absent, device)
	}
}

// flying is the number of messages that some device has yet to get which is not away on purpose. It looks at each
// message that is owed.
func (o *owed) flying() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, d := range o.messages {
		for device := range d.left {
			if !o.absent[device] {
				n++
				break
			}
		}
	}
	return n
}

// count is the number of messages that some device has yet to get.
func (o *owed) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.owing
}
