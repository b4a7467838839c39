// The interface, read from the gateway's own OpenAPI document. No validator: it would tell a foreign host of us.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
