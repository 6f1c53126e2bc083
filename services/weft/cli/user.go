package cli

import (
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/weftpush/weft/shared/admin"
	"github.com/weftpush/weft/shared/subject"
)

// NewUser is `weft user`: the devices of a user and what waits for them.
func NewUser() *cobra.Command {
	var request admin.UserRequest
	c := &cobra.Command{
		Use:   "user USER",
		Short: "Show a user's devices, where they are connected, what waits for them, and the last messages",
		Example: `  weft user alice
  weft user alice --last 50
  weft user alice --output json | jq '.devices[] | select(.pending > 0)'`,
		Args: one("USER", "the id of a user"), ValidArgsFunction: cobra.NoFileCompletions,
	}
	k := newConsole(c)
	c.Flags().StringVar(&request.Tenant, "tenant", subject.DefaultTenant, "`tenant` of the user")
	c.Flags().IntVar(&request.Last, "last", 10, "so many of the last messages, 1 to 100")
	c.RunE = func(_ *cobra.Command, args []string) error {
		if request.Last < 1 || request.Last > 100 {
			return usagef("--last is 1 to 100, not %d", request.Last)
		}
		request.User = args[0]
		var answer admin.UserAnswer
		return k.answer(admin.User, request, &answer, func() error { return k.showUser(answer) })
	}
	return Usage(c)
}

func (k *console) showUser(a admin.UserAnswer) error {
	pending := k.out.paint(green, "nothing waits")
	switch {
	case a.Pending > 0:
		pending = k.out.paint(yellow, many(a.Pending, "message")+" not acknowledged by any device")
	case slices.ContainsFunc(a.Devices, func(d admin.Device) bool { return d.Pending > 0 }):
		pending = k.out.paint(green, "acknowledged by one device, not by all")
	}
	if err := line(k.out, "%s  %s  %s so far\n", k.out.paint(bold, plain(a.User)), pending, many(int(a.Head), "message")); err != nil { //nolint:gosec // a mailbox's head
		return err
	}
	if len(a.Devices) == 0 {
		if err := line(k.out, "No device was ever connected."); err != nil {
			return err
		}
	}
	if err := k.showDevices(a.Devices); err != nil || len(a.Last) == 0 {
		return err
	}
	messages := table{columns: []column{
		{title: "SEQ", right: true}, {title: "ARCHIVED"}, {title: "ID", cut: true}, {title: "TYPE", cut: true}, {title: "SIZE", right: true}, {title: "", last: true, code: in(dim)},
	}}
	for _, m := range a.Last {
		note := string(m.Why)
		if m.Again {
			note = "sent again"
		}
		messages.row(strconv.FormatUint(m.Seq, 10), clock(m.Archived, k.now()), m.ID, m.Type, sized1000(m.Size), note)
	}
	if err := line(k.out, ""); err != nil {
		return err
	}
	return messages.write(k.out)
}

func (k *console) showDevices(devices []admin.Device) error {
	list := table{columns: []column{
		{title: "DEVICE", cut: true},
		{title: "STATE", code: stateColour},
		{title: "NODE"},
		{title: "SINCE", right: true},
		{title: "DOOR"},
		{title: "CLIENT", cut: true},
		{title: "CURSOR", right: true},
		{title: "PENDING", right: true, code: waiting},
		{title: "LAST ACK", right: true},
	}}
	for _, d := range devices {
		state, since, door, client := "away", "", "", ""
		if d.Node != "" {
			state = "online"
		}
		if s := d.Session; s != nil {
			since, door, client = age(s.Since, k.now()), s.Door, s.Client
		}
		list.row(d.Device, state, short(d.Node), since, door, client, strconv.FormatUint(d.Cursor, 10), thousands(d.Pending), age(d.Acked, k.now()))
	}
	return list.write(k.out)
}

// waiting colours a count of what waits.
func waiting(text string) string {
	if text == "0" {
		return ""
	}
	return yellow
}
