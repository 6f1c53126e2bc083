module github.com/weftpush/weft/services/push

go 1.26.0

require github.com/weftpush/weft/shared v0.0.0

replace github.com/weftpush/weft/shared => ../../shared
