module github.com/weftpush/weft/services/auth

go 1.26.0

require (
	github.com/golang-jwt/jwt/v5 v5.3.1 // indirect
	github.com/weftpush/weft/shared v0.0.0
)

replace github.com/weftpush/weft/shared => ../../shared
