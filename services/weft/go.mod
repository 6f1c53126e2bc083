module github.com/weftpush/weft/services/weft

go 1.26.0

require github.com/weftpush/weft/shared v0.0.0

require (
	github.com/gorilla/websocket v1.5.3 // indirect
	go.uber.org/goleak v1.3.0 // indirect
)

require (
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/spf13/cobra v1.10.2 // indirect
	github.com/spf13/pflag v1.0.9 // indirect
	github.com/weftpush/weft/services/auth v0.0.0
	github.com/weftpush/weft/services/collect v0.0.0
	github.com/weftpush/weft/services/dispatch v0.0.0
	github.com/weftpush/weft/services/push v0.0.0
	github.com/weftpush/weft/shared/embed v0.0.0
	go.yaml.in/yaml/v3 v3.0.4 // indirect
)

replace github.com/weftpush/weft/shared => ../../shared

replace github.com/weftpush/weft/services/auth => ../auth

replace github.com/weftpush/weft/services/collect => ../collect

replace github.com/weftpush/weft/services/dispatch => ../dispatch

replace github.com/weftpush/weft/services/push => ../push

replace github.com/weftpush/weft/shared/embed => ../../shared/embed
